import type { Migration, MigrationState, Phase } from '../api/objects';

export const phaseOf = (migration: Migration): Phase => migration.status?.phase ?? 'Pending';

export const isFinal = (phase: Phase): boolean => phase === 'Succeeded' || phase === 'Failed';

export const isActive = (migration: Migration): boolean => !isFinal(phaseOf(migration));

export const stateOf = (migration: Migration): MigrationState => migration.status?.migrationState ?? {};

const time = (text: string | undefined): number | undefined => {
  const parsed = Date.parse(text ?? '');
  return Number.isNaN(parsed) ? undefined : parsed;
};

export const createdAt = (migration: Migration): number => time(migration.metadata.creationTimestamp) ?? 0;

/** Milliseconds from when a target was chosen to the end, or until now. Undefined while it waits. */
export const duration = (migration: Migration, now: number): number | undefined => {
  const { startTimestamp, endTimestamp, result } = stateOf(migration);
  const start = time(startTimestamp);
  if (start === undefined) return undefined;
  // Times of objects are whole seconds; the engine knows more.
  const end = time(endTimestamp) ?? (isActive(migration) ? now : undefined);
  const whole = end === undefined ? undefined : Math.max(0, end - start);
  return whole === undefined || (whole < 2000 && result?.totalMs !== undefined) ? result?.totalMs : whole;
};

/** How a migration is counted: cancelled ones are failures that somebody wanted. */
export type Outcome = 'Waiting' | 'Running' | 'Succeeded' | 'Cancelled' | 'Failed';
export const outcomes: readonly Outcome[] = ['Waiting', 'Running', 'Succeeded', 'Cancelled', 'Failed'];

export const outcomeOf = (migration: Migration): Outcome => {
  const phase = phaseOf(migration);
  if (phase === 'Pending') return 'Waiting';
  if (phase === 'Succeeded') return 'Succeeded';
  if (phase === 'Failed') return stateOf(migration).failure?.reason === 'Cancelled' ? 'Cancelled' : 'Failed';
  return 'Running';
};

export const count = (migrations: readonly Migration[]): Record<Outcome, number> => {
  const counts: Record<Outcome, number> = { Waiting: 0, Running: 0, Succeeded: 0, Cancelled: 0, Failed: 0 };
  for (const migration of migrations) counts[outcomeOf(migration)] += 1;
  return counts;
};

/** How much is done, 0 to 100. A migration that is over is done; one that has not begun is at 0. */
export const percent = (migration: Migration): number => {
  if (phaseOf(migration) === 'Succeeded') return 100;
  const value = stateOf(migration).progress?.percent ?? 0;
  return Math.min(100, Math.max(0, value));
};

/** The largest percentage of a migration so far: the same bar never runs backwards, and words say why nothing moves. */
export class HighWater {
  private readonly highest = new Map<string, number>();

  of(migration: Migration): number {
    const uid = migration.metadata.uid ?? migration.metadata.name;
    const value = Math.max(percent(migration), this.highest.get(uid) ?? 0);
    this.highest.set(uid, value);
    return value;
  }
}

/** What came of the wish to give it up, in a sentence; undefined where nobody wished it. */
export const cancelOutcome = (migration: Migration): string | undefined => {
  const state = stateOf(migration);
  const phase = phaseOf(migration);
  const wanted = migration.spec?.cancel === true || state.abortRequested === true || migration.metadata.deletionTimestamp;
  if (!wanted) return undefined;
  if (phase === 'Succeeded') return 'It was too late to cancel: the machine has moved.';
  if (phase === 'Failed') return state.failure?.reason === 'Cancelled' ? 'It was cancelled. The machine runs where it was.' : undefined;
  return 'Cancelling. Until the engine has given up, the machine may still move.';
};

/** Why it waits, in words. */
export const waitsFor = (migration: Migration): string | undefined => {
  const condition = migration.status?.conditions?.find(({ type }) => type === 'Scheduled');
  return phaseOf(migration) === 'Pending' ? condition?.message : undefined;
};

/** What there is to say of it beside its phase. */
export const story = (migration: Migration): string | undefined =>
  cancelOutcome(migration) ?? stateOf(migration).failureReason ?? waitsFor(migration) ?? stateOf(migration).progress?.note;

export interface Limits {
  cluster: number;
  outbound: number;
  inbound: number;
}

export interface Use {
  all: number;
  outbound: Map<string, number>;
  inbound: Map<string, number>;
  /** Bytes each second on the wire, by the node they leave. */
  rates: Map<string, number>;
  rate: number;
}

/** What migrations use now. */
export const use = (migrations: readonly Migration[], rateOf: (migration: Migration) => number): Use => {
  const found: Use = { all: 0, outbound: new Map(), inbound: new Map(), rates: new Map(), rate: 0 };
  const add = (map: Map<string, number>, name: string | undefined, value: number) => {
    if (name) map.set(name, (map.get(name) ?? 0) + value);
  };
  for (const migration of migrations) {
    const phase = phaseOf(migration);
    if (isFinal(phase) || phase === 'Pending') continue;
    const { sourceNode, targetNode } = stateOf(migration);
    found.all += 1;
    add(found.outbound, sourceNode, 1);
    add(found.inbound, targetNode, 1);
    const wire = rateOf(migration);
    add(found.rates, sourceNode, wire);
    found.rate += wire;
  }
  return found;
};

export const ranges: readonly [string, number][] = [
  ['5 minutes', 5],
  ['15 minutes', 15],
  ['1 hour', 60],
  ['6 hours', 360],
  ['1 day', 1440],
  ['2 days', 2880],
  ['1 week', 10_080],
  ['2 weeks', 20_160],
];

/** Those of the last so many minutes. What is under way is always there. */
export const within = (migrations: readonly Migration[], minutes: number, now: number): Migration[] =>
  migrations.filter((migration) => isActive(migration) || createdAt(migration) >= now - minutes * 60_000);
