import { expect, test } from 'vitest';
import { isAlike } from './alike';
import { pageOf, sortBy } from './paging';
import { polyline, slices } from './slices';
import { ago, bytes, memory, quantity, rate, span } from './units';

test('quantities read as in the command line', () => {
  expect([bytes(999), bytes(1_073_741_824), bytes(67_200_000), rate(100e6)]).toEqual(['999 B', '1.07 GB', '67.2 MB', '100.0 MB/s']);
  expect([memory(2 ** 30), memory(1536 * 2 ** 20), memory(128 * 2 ** 20)]).toEqual(['1 GiB', '1.5 GiB', '128 MiB']);
  expect([span(12.345), span(2090), span(125_000), span(7_260_000), span(0)]).toEqual(['12.3 ms', '2.1 s', '2 min 5 s', '2 h 1 min', '0 s']);
});

test('quantities of Kubernetes are read, and what is none is none', () => {
  expect([quantity('2Mi'), quantity('100k'), quantity('0'), quantity('7')]).toEqual([2 * 2 ** 20, 100_000, 0, 7]);
  for (const text of [undefined, '', 'Mi', '1.5Gi', '-1', '1MB', '<b>']) expect(quantity(text), text).toBeUndefined();
});

test('a time in the future is a clock that is wrong', () => {
  expect([ago(0, 90_000), ago(0, 7200_000), ago(9e9, 0)]).toEqual(['1 min ago', '2 h ago', 'just now']);
});

test('names are sorted as people count, and what has no value comes last', () => {
  const rows = ['vm-10', 'vm-2', undefined];
  expect(sortBy(rows, (row) => row, 'asc')).toEqual(['vm-2', 'vm-10', undefined]);
  expect(sortBy(rows, (row) => row, 'desc')).toEqual(['vm-10', 'vm-2', undefined]);
});

test('a page that there is no more is the last one', () => {
  expect(pageOf([1, 2, 3], 9, 2)).toEqual([3]);
  expect(pageOf([], 1, 20)).toEqual([]);
});

test('slices are the whole circle, or nothing', () => {
  expect(slices([1, 3])).toEqual([
    { begin: 0, length: 25 },
    { begin: 25, length: 75 },
  ]);
  expect(slices([0, 0])).toEqual([
    { begin: 0, length: 0 },
    { begin: 0, length: 0 },
  ]);
});

test('a line stays in its box', () => {
  const points = [
    { at: 0, value: 0 },
    { at: 10, value: 50 },
  ];
  expect(polyline(points, 0, 10, 50, 100, 20)).toBe('0.0,20.0 100.0,0.0');
  expect(polyline(points.slice(0, 1), 0, 0, 0, 100, 20)).toBe('0.0,20.0');
});

test('rows are alike where all of their fields are the same, and not where one is another', () => {
  const machine = { metadata: { name: 'a' } };
  expect(isAlike({ key: 'a', machine }, { key: 'a', machine })).toBe(true);
  expect(isAlike({ key: 'a', machine }, { key: 'a', machine: { ...machine } })).toBe(false);
  expect(isAlike({ key: 'a', machine: undefined }, { key: 'a', instance: undefined })).toBe(false);
  expect([isAlike(NaN, NaN), isAlike(null, {}), isAlike('a', 'b')]).toEqual([true, false, false]);
});
