import { expect, test } from 'vitest';
import { basisOf, chosenOf, downtimeText, modeText, timeText, withForecasts, wrongDeadline } from './forecast';

test('what does not end has no time', () => {
  expect([timeText({ mode: 'precopy', ends: false, totalMs: 5 }), downtimeText({ mode: 'precopy', downtimeMs: 5 })]).toEqual(['It does not end', '–']);
  expect([timeText({ mode: 'precopy', ends: true, totalMs: 1500 }), downtimeText({ mode: 'precopy', ends: true, downtimeMs: 4.2 })]).toEqual(['1.5 s', '4.2 ms']);
});

test('words that this console does not know are shown as they are', () => {
  expect([modeText('postcopy'), modeText('new')]).toEqual(['Post-copy', 'new']);
  expect(basisOf({ name: 'a', bandwidth: 1e9, bandwidthBasis: 'Way' })).toBe('With 1.00 GB/s (measured between these two nodes)');
  expect(basisOf({ name: 'a', bandwidth: 1e9, bandwidthBasis: 'New' })).toBe('With 1.00 GB/s (New)');
  expect([basisOf({ name: 'a' }), chosenOf(undefined), chosenOf({ name: 'a' })]).toEqual([undefined, undefined, undefined]);
});

test('a deadline is whole seconds, and may be left open', () => {
  for (const right of ['', '0', '604800']) expect(wrongDeadline(right), right).toBeUndefined();
  for (const wrong of ['-1', '1.5', '604801', '9999999', '10s', ' ', '<b>']) expect(wrongDeadline(wrong), wrong).toBeDefined();
});

test('what was foretold once is said of the nodes as they are now', () => {
  const forecasts = [{ mode: 'precopy', chosen: true }];
  const foretold = { nodes: [{ name: 'a', forecasts, freeBytes: 9 }, { name: 'gone', forecasts }] };
  const plan = { nodes: [{ name: 'a', freeBytes: 5, reasons: ['full'] }, { name: 'b' }] };
  expect(withForecasts(plan, foretold)).toEqual({ nodes: [{ name: 'a', freeBytes: 5, reasons: ['full'], forecasts }, { name: 'b' }] });
  expect(withForecasts(plan, undefined)).toEqual(plan);
});
