import { expect, test } from 'vitest';
import type { Migration, Progress } from '../api/objects';
import { notesOf, record, roundsOf, type Sample, wireRates } from './history';

const sample = (at: number, progress: Progress): Sample => ({ at, progress });
const at = (progress: Progress): Migration => ({ metadata: { name: 'a' }, status: { phase: 'Running', migrationState: { progress } } });

test('the same thing said twice is one sample, and nothing is none', () => {
  const once = record([], at({ transferredBytes: 10 }), 1);
  expect(record(once, at({ transferredBytes: 10 }), 2)).toBe(once);
  expect(record([], at({ transferredBytes: 0 }), 1)).toEqual([]);
  expect(record([], { metadata: { name: 'a' } }, 1)).toEqual([]);
});

test('samples are bounded', () => {
  let samples: readonly Sample[] = [];
  for (let index = 1; index < 4000; index++) samples = record(samples, at({ transferredBytes: index }), index);
  expect(samples).toHaveLength(3600);
  expect(samples.at(-1)?.at).toBe(3999);
});

test('rounds are told apart by the last that was over; what is sent since then is under way', () => {
  const rounds = roundsOf([
    sample(1, { round: 0, transferredBytes: 100, remainingBytes: 900 }),
    sample(2, { round: 1, transferredBytes: 1000, remainingBytes: 50, wireRate: 500, dirtyRate: 20 }),
    sample(3, { round: 1, transferredBytes: 1020, remainingBytes: 30, wireRate: 500, dirtyRate: 20 }),
  ]);
  expect(rounds.map(({ round, sent, wireRate }) => [round, sent, wireRate])).toEqual([
    [1, 1000, 500],
    [2, 20, undefined],
  ]);
});

test('rates are between samples, and never negative', () => {
  const rates = wireRates([sample(0, { transferredBytes: 0 }), sample(2000, { transferredBytes: 100 }), sample(3000, { transferredBytes: 50 })]);
  expect(rates.map(({ value }) => value)).toEqual([50, 0]);
});

test('a sentence that stays is told once', () => {
  const notes = notesOf([sample(1, { note: 'slow' }), sample(2, { note: 'slow' }), sample(3, {}), sample(4, { note: 'fast' })]);
  expect(notes.map(({ text }) => text)).toEqual(['slow', 'fast']);
});

test('each decision is told once, as it comes, though an object has the last ones only', () => {
  const one = { atMs: 100, text: 'vCPUs are slowed' };
  const two = { atMs: 2500, text: 'they are slowed more' };
  const notes = notesOf([sample(1, { decisions: [one] }), sample(2, { decisions: [one, two], note: 'slow' }), sample(3, { decisions: [two], note: 'slow' })]);
  expect(notes.map(({ text }) => text)).toEqual(['100 ms: vCPUs are slowed', '2.5 s: they are slowed more', 'slow']);
});
