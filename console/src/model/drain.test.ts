import { expect, test } from 'vitest';
import type { Drain } from '../api/objects';
import { drainPercent, drainsOf, drainSpecOf, drainStory, emptyDrain, targetText, whyNotDrain, wrongDrain } from './drain';

const drain = (status: Drain['status'] = {}, spec: Drain['spec'] = {}): Drain => ({ metadata: { name: 'd' }, spec: { nodes: ['a', 'b'], ...spec }, status });

test('a drain is done by machines, and one of empty nodes when it says so', () => {
  expect(drainPercent(drain({ phase: 'Draining', moved: 1, left: 2 }))).toBe(33);
  expect(drainPercent(drain({ phase: 'Draining', machines: 10, moved: 0, left: 6 }))).toBe(40);
  expect(drainPercent(drain({ phase: 'Draining' }))).toBe(0);
  expect(drainPercent(drain({ phase: 'Succeeded' }))).toBe(100);
  expect(drainPercent({ metadata: { name: 'bare' } })).toBe(0);
});

test('what cannot be done with it says why', () => {
  expect(whyNotDrain('stop', drain({ phase: 'Draining' }))).toBeUndefined();
  expect(whyNotDrain('resume', drain({ phase: 'Draining' }))).toBe('It goes on.');
  expect(whyNotDrain('stop', drain({ phase: 'Draining' }, { paused: true }))).toBe('It is stopped already.');
  expect(whyNotDrain('cancel', drain({ phase: 'Draining' }, { cancel: true }))).toBe('It is being given up already.');
  for (const action of ['stop', 'resume', 'cancel'] as const) expect(whyNotDrain(action, drain({ phase: 'Failed' }))).toBe('It is over.');
});

test('what was asked of it last is said before what it says itself', () => {
  const status: Drain['status'] = { phase: 'Draining', conditions: [{ type: 'Complete', status: 'False', message: '2 machines are left' }] };
  expect(drainStory(drain(status))).toBe('2 machines are left');
  expect(drainStory(drain(status, { paused: true }))).toContain('until it is resumed');
  expect(drainStory(drain(status, { paused: true, cancel: true }))).toContain('given up');
  expect(drainStory(drain({ ...status, phase: 'Cancelled' }, { cancel: true }))).toBe('2 machines are left');
});

test('a node is of the drains that name it and go on', () => {
  const all = [drain({ phase: 'Draining' }), drain({ phase: 'Succeeded' }), drain({ phase: 'Draining' }, { nodes: ['c'] }), { metadata: { name: 'bare' } }];
  expect(drainsOf(all, 'a')).toEqual([all[0]]);
});

test('a drain is asked for with what was typed, and not while that is wrong', () => {
  expect(drainSpecOf(['a'], emptyDrain)).toEqual({ nodes: ['a'], minAvailable: 1 });
  expect(drainSpecOf(['a'], { deadline: '10', minAvailable: '0' })).toEqual({ nodes: ['a'], minAvailable: 0, deadlineSeconds: 600 });
  expect(drainSpecOf([], emptyDrain)).toBeUndefined();
  for (const deadline of ['0', '-1', '1.5', '43201', '10m', '9999999999', '<b>']) expect(Object.keys(wrongDrain({ ...emptyDrain, deadline })), deadline).toEqual(['deadline']);
  for (const minAvailable of ['', '-1', '100001']) expect(drainSpecOf(['a'], { ...emptyDrain, minAvailable }), minAvailable).toBeUndefined();
});

test('a machine whose run is ended goes nowhere', () => {
  const step = { namespace: 'a', name: 'b', sourceNode: 'x', targetNode: 'y' };
  expect([targetText(step), targetText({ ...step, movesAgain: true }), targetText({ ...step, targetNode: '', ended: true })]).toEqual(['y', 'y (it moves again from there)', 'Nowhere: its run ends']);
});
