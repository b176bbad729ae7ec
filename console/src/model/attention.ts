import type { Instance, Migration, Node, VirtualMachine } from '../api/objects';
import { notMigratable, statusOf } from './machine';
import { createdAt, isActive, outcomeOf, stateOf } from './migration';
import { readiness } from './node';

/** Something that somebody should look at. */
export interface Concern {
  key: string;
  kind: 'machine' | 'migration' | 'node';
  namespace: string;
  name: string;
  why: string;
}

/** A migration that goes on for longer than this is looked at, in milliseconds. */
const LONG = 30 * 60_000;
/** Failures are of interest for a day. */
const DAY = 24 * 3600_000;

/** What needs attention: the worst first. */
export const concerns = (
  machines: readonly VirtualMachine[],
  instances: readonly Instance[],
  migrations: readonly Migration[],
  nodes: readonly Node[],
  now: number,
): Concern[] => {
  const found: Concern[] = [];
  const add = (kind: Concern['kind'], { namespace = '', name }: { namespace?: string; name: string }, why: string) =>
    found.push({ key: `${kind}/${namespace}/${name}`, kind, namespace, name, why });
  for (const node of nodes) {
    if (readiness(node) === 'Not ready') add('node', node.metadata, 'Its agent is not heard of. Its machines may run; nothing of them is started elsewhere.');
  }
  for (const machine of machines) {
    const status = statusOf(machine);
    if (status === 'Failed' || status === 'Unschedulable') {
      const condition = machine.status?.conditions?.find(({ status: is, message }) => is === 'False' && message);
      add('machine', machine.metadata, condition?.message ?? `It is ${status.toLowerCase()}.`);
    }
  }
  for (const migration of latestOfEach(migrations)) {
    if (outcomeOf(migration) === 'Failed' && createdAt(migration) > now - DAY) {
      add('migration', migration.metadata, stateOf(migration).failureReason ?? 'It failed.');
    } else if (isActive(migration) && createdAt(migration) < now - LONG) {
      add('migration', migration.metadata, stateOf(migration).progress?.note ?? 'It has been going on for more than half an hour.');
    }
  }
  for (const instance of instances) {
    const why = notMigratable(instance);
    if (why) add('machine', instance.metadata, `It cannot be migrated: ${why}`);
  }
  return found;
};

/** Of each machine its latest migration: a failure that was made good is no concern. */
const latestOfEach = (migrations: readonly Migration[]): Migration[] => {
  const latest = new Map<string, Migration>();
  for (const migration of migrations) {
    const key = `${migration.metadata.namespace ?? ''}/${migration.spec?.vmiName ?? ''}`;
    const other = latest.get(key);
    if (!other || createdAt(migration) >= createdAt(other)) latest.set(key, migration);
  }
  return [...latest.values()];
};
