import type { Condition, ControlPlane, Drain, Instance, Migration, Node, VirtualMachine } from '../api/objects';
import { plural } from '../lib/units';
import { drainPhaseOf, drainStory, isDrainOver } from './drain';
import { notMigratable, statusOf } from './machine';
import { createdAt, isActive, outcomeOf, stateOf } from './migration';
import { readiness } from './node';

/** Something that somebody should look at. */
export interface Concern {
  key: string;
  kind: 'machine' | 'migration' | 'node' | 'drain' | 'plane';
  namespace: string;
  name: string;
  why: string;
}

/** A migration that goes on for longer than this is looked at, in milliseconds. */
const LONG = 30 * 60_000;
/** Failures are of interest for a day. */
const DAY = 24 * 3600_000;

/** What is said where certificates end soon, or have; undefined where all is well. */
const expiring = (conditions: readonly Condition[] | undefined): string | undefined => {
  const found = conditions?.find(({ type, status }) => type === 'CertificatesExpiring' && status === 'True');
  return found && (found.message ?? 'Its certificates expire.');
};

/** The same of the control plane itself, which is no object. */
export const concernsOfPlane = (plane: ControlPlane | undefined): Concern[] => {
  const why = expiring(plane?.conditions);
  return why === undefined ? [] : [{ key: 'plane', kind: 'plane', namespace: '', name: 'Control plane', why }];
};

/** What needs attention: the worst first. */
export const concerns = (
  machines: readonly VirtualMachine[],
  instances: readonly Instance[],
  migrations: readonly Migration[],
  nodes: readonly Node[],
  drains: readonly Drain[],
  now: number,
): Concern[] => {
  const found: Concern[] = [];
  const concern = (kind: Concern['kind'], { namespace = '', name }: { namespace?: string; name: string }, why: string): Concern => ({ key: `${kind}/${namespace}/${name}`, kind, namespace, name, why });
  const add = (...what: Parameters<typeof concern>) => found.push(concern(...what));
  for (const node of nodes) {
    if (readiness(node) === 'Not ready') add('node', node.metadata, 'Its agent is not heard of. Its machines may run; nothing of them is started elsewhere.');
    const why = expiring(node.status?.conditions);
    if (why) found.push({ ...concern('node', node.metadata, why), key: `certificates/${node.metadata.name}` });
  }
  for (const drain of drains) {
    const { blocked = 0, endTimestamp } = drain.status ?? {};
    if (!isDrainOver(drain) && blocked > 0) add('drain', drain.metadata, `${plural(blocked, 'machine')} cannot move as things are, and the drain waits for that.`);
    if (drainPhaseOf(drain) === 'Failed' && Date.parse(endTimestamp ?? '') > now - DAY) add('drain', drain.metadata, drainStory(drain) ?? 'It was given up.');
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
    // A machine may be of concern twice: it failed, and could not be migrated either.
    if (why) found.push({ ...concern('machine', instance.metadata, `It cannot be migrated: ${why}`), key: `not-migratable/${instance.metadata.namespace ?? ''}/${instance.metadata.name}` });
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
