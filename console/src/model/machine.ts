import type { Instance, InstanceSpec, Migration, VirtualMachine } from '../api/objects';
import { isActive } from './migration';

/** A machine with its run and the migration that is under way, if any. */
export interface Row {
  key: string;
  machine: VirtualMachine;
  instance: Instance | undefined;
  migration: Migration | undefined;
}

export type Action = 'start' | 'stop' | 'restart' | 'pause' | 'unpause' | 'migrate' | 'delete';

export const actionNames: Record<Action, string> = {
  start: 'Start',
  stop: 'Stop',
  restart: 'Restart',
  pause: 'Pause',
  unpause: 'Unpause',
  migrate: 'Migrate',
  delete: 'Delete',
};

/** Puts machines, runs and migrations together: by namespace and name, which all of them have. */
export const rowsOf = (
  machines: ReadonlyMap<string, VirtualMachine>,
  instances: ReadonlyMap<string, Instance>,
  migrations: Iterable<Migration>,
): Row[] => {
  const active = new Map<string, Migration>();
  for (const migration of migrations) {
    if (isActive(migration)) active.set(`${migration.metadata.namespace ?? ''}/${migration.spec?.vmiName ?? ''}`, migration);
  }
  return [...machines].map(([key, machine]) => ({
    key,
    machine,
    instance: instances.get(key),
    migration: active.get(key),
  }));
};

export const statusOf = (machine: VirtualMachine): string =>
  machine.metadata.deletionTimestamp ? 'Deleting' : (machine.status?.printableStatus ?? 'Unknown');

/** The description of the run, or of the next one where nothing runs. */
export const specOf = (row: Row): InstanceSpec | undefined => row.instance?.spec ?? row.machine.spec?.template?.spec;

export const isPaused = (instance: Instance | undefined): boolean => instance?.spec?.paused === true;

/** Why an action cannot be done now, in a sentence; undefined if it can. */
export const whyNot = (action: Action, { machine, instance, migration }: Row): string | undefined => {
  const halted = machine.spec?.runStrategy === 'Halted';
  const running = instance?.status?.phase === 'Running' && !instance.metadata.deletionTimestamp;
  if (machine.metadata.deletionTimestamp) return 'The machine is being deleted.';
  switch (action) {
    case 'start':
      return halted ? undefined : 'It runs already, or is about to.';
    case 'stop':
      return halted ? 'It is stopped already.' : undefined;
    case 'restart':
      if (halted) return 'It is stopped: start it instead.';
      return instance ? undefined : 'It has no run that could be ended.';
    case 'pause':
      if (!running) return 'It does not run.';
      return isPaused(instance) ? 'It is paused already.' : undefined;
    case 'unpause':
      return isPaused(instance) ? undefined : 'It is not paused.';
    case 'migrate':
      if (!running) return 'Only a machine that runs can be migrated.';
      if (migration) return `It is being migrated already, by ${migration.metadata.name}.`;
      return notMigratable(instance);
    case 'delete':
      return undefined;
  }
};

/** Why a machine cannot be migrated, with every reason; undefined if it can, or nobody has said yet. */
export const notMigratable = (instance: Instance | undefined): string | undefined => {
  const condition = instance?.status?.conditions?.find(({ type }) => type === 'LiveMigratable');
  return condition?.status === 'False' ? (condition.message ?? condition.reason ?? 'It is not live migratable.') : undefined;
};

/** What a bulk action would do: to which, and which it would leave out and why. */
export const bulk = (action: Action, rows: readonly Row[]): { does: Row[]; skips: { row: Row; why: string }[] } => {
  const does: Row[] = [];
  const skips: { row: Row; why: string }[] = [];
  for (const row of rows) {
    const why = whyNot(action, row);
    if (why === undefined) does.push(row);
    else skips.push({ row, why });
  }
  return { does, skips };
};

/** Whether a machine is meant by what was typed: its name, namespace, node, status, or a label as `key=value`. */
export const matches = (row: Row, typed: string): boolean => {
  const words = typed.toLowerCase().split(/\s+/).filter(Boolean);
  if (words.length === 0) return true;
  const labels = Object.entries(row.machine.spec?.template?.metadata?.labels ?? {}).map(([name, value]) => `${name}=${value}`);
  const texts = [
    row.machine.metadata.name,
    row.machine.metadata.namespace ?? '',
    row.instance?.status?.nodeName ?? '',
    statusOf(row.machine),
    ...labels,
  ].map((text) => text.toLowerCase());
  return words.every((word) => texts.some((text) => text.includes(word)));
};

/** A name that Kubernetes takes: what is wrong with it, or undefined. */
export const wrongName = (name: string): string | undefined => {
  if (name === '') return 'A name is needed.';
  if (name.length > 253) return 'At most 253 characters.';
  return name.split('.').every((part) => /^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/.test(part))
    ? undefined
    : "Lower-case letters, digits, '-' and '.', with a letter or digit at both ends of each part.";
};
