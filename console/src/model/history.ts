import type { Migration, Progress } from '../api/objects';
import { phaseOf, stateOf } from './migration';

/** Progress at a moment, as it was seen here. */
export interface Sample {
  at: number;
  progress: Progress;
}

/** A pass over the dirty memory, as it was last seen. */
export interface Round {
  round: number;
  seconds: number;
  sent: number;
  remaining: number;
  wireRate: number;
  dirtyRate: number;
  predictedDowntimeMs: number | undefined;
}

/** Samples that are kept of a migration: an hour at one a second. */
const KEPT = 3600;

/** Adds what a migration says now, if it says anything new. */
export const record = (samples: readonly Sample[], migration: Migration, at: number): readonly Sample[] => {
  const progress = stateOf(migration).progress;
  const last = samples.at(-1)?.progress;
  if (!progress || phaseOf(migration) === 'Pending' || JSON.stringify(last) === JSON.stringify(progress)) return samples;
  return [...samples.slice(-KEPT + 1), { at, progress }];
};

/** Samples by round: of each the last one, and what was sent and passed in it. */
export const roundsOf = (samples: readonly Sample[]): Round[] => {
  const rounds: Round[] = [];
  let before = { at: samples[0]?.at ?? 0, sent: 0 };
  samples.forEach(({ at, progress }, index) => {
    const number = progress.round ?? 0;
    if (samples[index + 1]?.progress.round === progress.round) return;
    rounds.push({
      round: number,
      seconds: Math.max(0, (at - before.at) / 1000),
      sent: Math.max(0, (progress.transferredBytes ?? 0) - before.sent),
      remaining: progress.remainingBytes ?? 0,
      wireRate: progress.wireRate ?? 0,
      dirtyRate: progress.dirtyRate ?? 0,
      predictedDowntimeMs: progress.predictedDowntimeMs,
    });
    before = { at, sent: progress.transferredBytes ?? 0 };
  });
  return rounds;
};

/** What was said in words, each thing once as long as it stays the same. */
export const notesOf = (samples: readonly Sample[]): { at: number; text: string }[] => {
  const notes: { at: number; text: string }[] = [];
  for (const { at, progress } of samples) {
    if (progress.note && notes.at(-1)?.text !== progress.note) notes.push({ at, text: progress.note });
  }
  return notes;
};
