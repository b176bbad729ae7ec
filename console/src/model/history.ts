import type { Migration, Progress } from '../api/objects';
import { span } from '../lib/units';
import { phaseOf, stateOf } from './migration';

/** Progress at a moment, as it was seen here. */
export interface Sample {
  at: number;
  progress: Progress;
}

/** A pass over the dirty memory. */
export interface Round {
  round: number;
  sent: number;
  remaining: number;
  /** Bytes each second, when it was over. */
  wireRate: number | undefined;
  dirtyRate: number | undefined;
  predictedDowntimeMs: number | undefined;
}

/** Samples that are kept of a migration: an hour at one a second. */
const KEPT = 3600;

/** Adds what a migration says now, if it says anything new. */
export const record = (samples: readonly Sample[], migration: Migration, at: number): readonly Sample[] => {
  const progress = stateOf(migration).progress;
  const last = samples.at(-1)?.progress;
  const isBegun = (progress?.transferredBytes ?? 0) > 0;
  if (!progress || !isBegun || phaseOf(migration) === 'Pending' || JSON.stringify(last) === JSON.stringify(progress)) return samples;
  return [...samples.slice(-KEPT + 1), { at, progress }];
};

/** Rounds, the latest last. `round` of a progress is the last one that was over: what has been sent since then belongs to the next. */
export const roundsOf = (samples: readonly Sample[]): Round[] => {
  const rounds: Round[] = [];
  let over = samples[0]?.progress.round ?? 0;
  let before = over === 0 ? 0 : (samples[0]?.progress.transferredBytes ?? 0);
  for (const { progress } of samples) {
    const { round = 0, transferredBytes: sent = 0 } = progress;
    if (round === over) continue;
    rounds.push(row(round, sent - before, progress, true));
    over = round;
    before = sent;
  }
  const last = samples.at(-1)?.progress;
  if (last) rounds.push(row(over + 1, (last.transferredBytes ?? 0) - before, last, false));
  return rounds;
};

const row = (round: number, sent: number, progress: Progress, isOver: boolean): Round => ({
  round,
  sent: Math.max(0, sent),
  remaining: progress.remainingBytes ?? 0,
  wireRate: isOver ? progress.wireRate : undefined,
  dirtyRate: isOver ? progress.dirtyRate : undefined,
  predictedDowntimeMs: progress.predictedDowntimeMs,
});

/** Bytes each second on the wire, from one sample to the next. */
export const wireRates = (samples: readonly Sample[]): { at: number; value: number }[] =>
  samples.slice(1).map(({ at, progress }, index) => {
    const before = samples[index];
    const seconds = (at - (before?.at ?? at)) / 1000;
    const sent = (progress.transferredBytes ?? 0) - (before?.progress.transferredBytes ?? 0);
    return { at, value: seconds > 0 ? Math.max(0, sent / seconds) : 0 };
  });

/** What was said in words: each note once as long as it stays the same, and each decision as it came. */
export const notesOf = (samples: readonly Sample[]): { key: string; text: string }[] => {
  const notes: { key: string; text: string }[] = [];
  const decided = new Set<string>();
  let last: string | undefined;
  for (const { at, progress } of samples) {
    for (const { atMs, text } of progress.decisions ?? []) {
      const key = `${atMs} ${text}`;
      if (!decided.has(key)) notes.push({ key, text: `${span(atMs)}: ${text}` });
      decided.add(key);
    }
    if (progress.note && last !== progress.note) notes.push({ key: `note ${at}`, text: progress.note });
    last = progress.note ?? last;
  }
  return notes;
};
