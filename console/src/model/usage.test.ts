import { expect, test } from 'vitest';
import type { Usage } from '../api/usage';
import { addLook, cpus, diskNames, diskRates, type Look, ratesOf } from './usage';

const look = (at: number, more: Partial<Usage> = {}): Look => ({
  at: at * 1000,
  usage: {
    vmm: 'a',
    atSeconds: at,
    cpu: { vcpus: 1, vcpuSeconds: at / 2, vmmSeconds: at },
    memory: { touchedBytes: 1, vmmBytes: 1 },
    storage: { readBytes: at * 10, writtenBytes: at * 100 },
    networks: [
      { name: 'tap0', receivedBytes: at, sentBytes: 2 * at, receivedFrames: 0, sentFrames: 0 },
      { name: 'tap1', receivedBytes: at, sentBytes: 0, receivedFrames: 0, sentFrames: 0 },
    ],
    ...more,
  },
});

test('rates are what was counted by the time of the host, all cards together', () => {
  expect(ratesOf([look(1), look(3)])).toEqual([{ at: 3000, guestCpus: 0.5, otherCpus: 0.5, read: 10, written: 100, received: 2, sent: 2 }]);
});

test('between two VMMs nothing is known, and what the host does not count is not 0', () => {
  expect(ratesOf([look(9), look(1, { vmm: 'b' })])).toEqual([]);
  const bare = { vmm: 'a', cpu: { vcpus: 1, vmmSeconds: 1 }, memory: { touchedBytes: 1, vmmBytes: 1 }, networks: [] };
  const [rates] = ratesOf([{ at: 0, usage: { ...bare, atSeconds: 1 } }, { at: 1, usage: { ...bare, atSeconds: 2 } }]);
  expect([rates?.guestCpus, rates?.read, rates?.sent]).toEqual([undefined, undefined, 0]);
});

test('a counter that begins anew is no negative rate', () => {
  const [rates] = ratesOf([look(1, { networks: [{ name: 'tap0', receivedBytes: 900, sentBytes: 900, receivedFrames: 0, sentFrames: 0 }] }), look(2)]);
  expect([rates?.received, rates?.sent]).toEqual([0, 0]);
});

test('the same look twice is one, and looks are bounded', () => {
  let looks = addLook([], look(1));
  expect(addLook(looks, look(1))).toBe(looks);
  for (let at = 2; at < 2000; at++) looks = addLook(looks, look(at));
  expect(looks).toHaveLength(900);
  expect(cpus(0.256)).toBe('26 % of a CPU');
});

const disk = (at: number, more: object = {}) => ({
  disks: [{ name: 'disk0', path: '/d', reads: at * 2, writes: 0, flushes: at, readBytes: at * 1024, writtenBytes: 0, readSeconds: at / 4, writeSeconds: 0, flushSeconds: 0, errors: 3, ...more }],
});

test('of a disk there is what it does each second, and how long a request takes', () => {
  const rates = diskRates([look(1, disk(1)), look(3, disk(3))]);
  expect(rates).toEqual([{ name: 'disk0', path: '/d', reads: 2, writes: 0, flushes: 1, read: 1024, written: 0, readMs: 125, writeMs: undefined, flushMs: 0, errors: 3 }]);
});

test('what one VMM counted is not taken from what the next one counts, and what nobody counts is not 0', () => {
  expect(diskRates([look(1, disk(900)), look(2, { ...disk(1), vmm: 'b' })])).toBeUndefined();
  expect(diskRates([look(1), look(2)])).toBeUndefined();
  expect(diskRates([])).toBeUndefined();
  expect(diskRates([look(1), look(2, disk(2))])).toBeUndefined();
});

test('disks have the names of the description where both have as many', () => {
  const instance = { metadata: { name: 'a' }, spec: { domain: { devices: { disks: [{ name: 'root' }] } } } };
  expect(diskNames(instance, [{ name: 'disk0' }]).get('disk0')).toBe('root');
  expect(diskNames(instance, [{ name: 'disk0' }, { name: 'disk1' }]).get('disk1')).toBe('disk1');
  expect(diskNames({ metadata: { name: 'a' } }, [{ name: 'disk0' }]).get('disk0')).toBe('disk0');
});
