import { describe, expect, test } from 'vitest';
import type { Drain, Instance, Migration, MigrationState, Node, Phase, VirtualMachine } from '../api/objects';
import { concerns, concernsOfPlane } from './attention';
import { bulk, matches, type Row, rowsOf, whyNot, wrongName } from './machine';
import { machineOf, emptyMachine, wrongMachine } from './machine-form';
import { Meter } from './meter';
import { cancelOutcome, count, duration, HighWater, outcomeOf, use, within } from './migration';
import { loads, readiness, usesOf } from './node';

const vm = (name: string, strategy: 'Always' | 'Halted' = 'Always'): VirtualMachine => ({
  metadata: { name, namespace: 'default' },
  spec: { runStrategy: strategy, template: { metadata: { labels: { tier: 'gold' } } } },
});
const run = (name: string, phase = 'Running', more: Instance['status'] = {}): Instance => ({
  metadata: { name, namespace: 'default' },
  status: { phase, nodeName: 'node-a', ...more },
});
const move = (name: string, phase: Phase, state: MigrationState = {}, more: Partial<Migration['spec']> = {}): Migration => ({
  metadata: { name: `${name}-x`, namespace: 'default', uid: name, creationTimestamp: '2026-01-01T00:00:00Z' },
  spec: { vmiName: name, ...more },
  status: { phase, migrationState: state },
});
const row = (machine: VirtualMachine, instance?: Instance, migration?: Migration): Row => ({ key: machine.metadata.name, machine, instance, migration });
const begin = Date.parse('2026-01-01T00:00:00Z');

describe('actions of a machine', () => {
  test('each that cannot be done says why', () => {
    const running = row(vm('a'), run('a'));
    expect(whyNot('start', running)).toBe('It runs already, or is about to.');
    expect(whyNot('migrate', running)).toBeUndefined();
    expect(whyNot('migrate', row(vm('a', 'Halted')))).toBe('Only a machine that runs can be migrated.');
    expect(whyNot('migrate', row(vm('a'), run('a'), move('a', 'Running')))).toContain('a-x');
    const stuck = run('a', 'Running', { conditions: [{ type: 'LiveMigratable', status: 'False', message: 'disk root is not shared' }] });
    expect(whyNot('migrate', row(vm('a'), stuck))).toBe('disk root is not shared');
    expect(whyNot('unpause', running)).toBe('It is not paused.');
  });

  test('a bulk action tells beforehand whom it leaves out', () => {
    const { does, skips } = bulk('stop', [row(vm('a'), run('a')), row(vm('b', 'Halted'))]);
    expect(does.map(({ key }) => key)).toEqual(['a']);
    expect(skips).toMatchObject([{ row: { key: 'b' }, why: 'It is stopped already.' }]);
  });

  test('an object without a status is no error', () => {
    const bare: VirtualMachine = { metadata: { name: 'a' } };
    const [found] = rowsOf(new Map([['/a', bare]]), new Map(), []);
    expect(found && whyNot('migrate', found)).toBe('Only a machine that runs can be migrated.');
    expect(found && matches(found, 'unknown')).toBe(true);
  });

  test('machines are found by every word, also of labels', () => {
    const one = row(vm('web-1'), run('web-1'));
    expect(matches(one, 'WEB node-a tier=gold')).toBe(true);
    expect(matches(one, 'web node-b')).toBe(false);
  });

  test('names are those that Kubernetes takes', () => {
    for (const name of ['a', 'a-1', '0', 'a.b-1.c', 'a'.repeat(253)]) expect(wrongName(name), name).toBeUndefined();
    for (const name of ['', '-a', 'a-', 'A', 'a_b', 'ä', 'a..b', '.a', 'a.', 'a/b', 'a'.repeat(254)]) expect(wrongName(name), name).toBeDefined();
  });
});

describe('migrations', () => {
  test('a cancelled one is no failure', () => {
    const cancelled = move('a', 'Failed', { failure: { reason: 'Cancelled', message: '' } }, { cancel: true });
    expect(outcomeOf(cancelled)).toBe('Cancelled');
    expect(cancelOutcome(cancelled)).toBe('It was cancelled. The machine runs where it was.');
    expect(count([cancelled, move('b', 'Failed'), move('c', 'TargetReady')])).toMatchObject({ Cancelled: 1, Failed: 1, Running: 1 });
  });

  test('a cancel that came too late says that the machine has moved', () => {
    expect(cancelOutcome(move('a', 'Succeeded', {}, { cancel: true }))).toContain('too late');
    expect(cancelOutcome(move('a', 'Failed', { failure: { reason: 'EngineFailed', message: '' } }, { cancel: true }))).toBeUndefined();
    expect(cancelOutcome(move('a', 'Running'))).toBeUndefined();
  });

  test('a bar never runs backwards', () => {
    const water = new HighWater();
    expect(water.of(move('a', 'Running', { progress: { percent: 60 } }))).toBe(60);
    expect(water.of(move('a', 'Running', { progress: { percent: 40 } }))).toBe(60);
    expect(water.of(move('a', 'Running', { progress: { percent: 900 } }))).toBe(100);
    expect(water.of(move('b', 'Running'))).toBe(0);
  });

  test('a duration ends with the migration, and a clock that is wrong makes none negative', () => {
    const at = { startTimestamp: '2026-01-01T00:00:00Z' };
    expect(duration(move('a', 'Running', at), begin + 5000)).toBe(5000);
    expect(duration(move('a', 'Running', at), begin - 3600_000)).toBe(0);
    expect(duration(move('a', 'Succeeded', { ...at, endTimestamp: '2026-01-01T00:00:01Z', result: { totalMs: 480 } }), begin + 9e9)).toBe(480);
    expect(duration(move('a', 'Pending'), begin)).toBeUndefined();
  });

  test('what is under way is in every time range', () => {
    const old = [move('a', 'Running'), move('b', 'Succeeded')];
    expect(within(old, 5, begin + 3600_000).map(({ metadata }) => metadata.uid)).toEqual(['a']);
    expect(within(old, 120, begin + 3600_000)).toHaveLength(2);
  });

  test('limits count what has a target, and nothing that waits or is over', () => {
    const state = { sourceNode: 'node-a', targetNode: 'node-b' };
    const all = [move('a', 'Running', state), move('b', 'TargetReady', state), move('c', 'Pending'), move('d', 'Failed', state)];
    const now = use(all, () => 10);
    expect([now.all, now.outbound.get('node-a'), now.inbound.get('node-b'), now.rate]).toEqual([2, 2, 2, 20]);
  });
});

describe('the rate on the wire', () => {
  const at = (sent: number) => move('a', 'Running', { progress: { round: 0, transferredBytes: sent, wireRate: 0 } });

  test('is what was sent between updates, also in the first round', () => {
    const meter = new Meter();
    meter.see([at(0)], 0);
    meter.see([at(1000)], 1000);
    expect(meter.rateOf(at(1000), 1000)).toBe(1000);
    meter.see([at(4000)], 2000);
    expect(meter.rateOf(at(4000), 2000)).toBe(2000);
  });

  test('is 0 when it is over, and when nothing has been heard for long', () => {
    const meter = new Meter();
    meter.see([at(0)], 0);
    meter.see([at(1000)], 1000);
    expect(meter.rateOf(at(1000), 60_000)).toBe(0);
    const over = move('a', 'Succeeded', { progress: { transferredBytes: 1000 } });
    meter.see([over], 2000);
    expect(meter.rateOf(over, 2000)).toBe(0);
  });

  test('begins anew where a migration does', () => {
    const meter = new Meter();
    meter.see([at(5000)], 0);
    meter.see([at(10)], 1000);
    expect(meter.rateOf(at(10), 1000)).toBe(0);
  });
});

test('a node has the memory of what runs on it, and of nothing that has ended', () => {
  const node = { metadata: { name: 'node-a' }, status: { allocatable: { memory: '1024', cpu: '2' } } };
  const sized = (name: string, phase: string): Instance => ({ ...run(name, phase), spec: { domain: { memory: { guest: '128Mi' } } } });
  const [load] = loads([node], usesOf([sized('a', 'Running'), sized('b', 'Failed')]), [], () => 0);
  expect([load?.machines, load?.used, load?.cpus]).toEqual([1, 128 * 2 ** 20, 2]);
});

test('a failure that was made good is no concern', () => {
  const failed = move('a', 'Failed', { failureReason: 'the link broke' });
  const later = { ...move('a', 'Succeeded'), metadata: { ...failed.metadata, uid: 'later', creationTimestamp: '2026-01-01T01:00:00Z' } };
  expect(concerns([], [], [failed], [], [], begin + 1000)).toMatchObject([{ kind: 'migration', why: 'the link broke' }]);
  expect(concerns([], [], [failed, later], [], [], begin + 3700_000)).toEqual([]);
});

test('certificates that end and drains that wait need attention, and others do not', () => {
  const ready = { type: 'Ready', status: 'True' as const };
  const node = (status: 'True' | 'False', message: string): Node => ({ metadata: { name: message }, status: { conditions: [ready, { type: 'CertificatesExpiring', status, message }] } });
  const found = concerns([], [], [], [node('True', 'ends on Monday'), node('False', 'fine')], [], begin);
  expect(found).toMatchObject([{ kind: 'node', why: 'ends on Monday' }]);
  const drain = (phase: 'Draining' | 'Failed', more: Drain['status'] = {}): Drain => ({ metadata: { name: phase }, status: { phase, ...more } });
  const drains = [drain('Draining', { blocked: 2 }), drain('Draining'), drain('Failed', { endTimestamp: '2026-01-01T00:00:00Z', conditions: [{ type: 'Complete', status: 'False', message: 'its time was up' }] })];
  expect(concerns([], [], [], [], drains, begin + 1000).map(({ why }) => why)).toEqual(['2 machines cannot move as things are, and the drain waits for that.', 'its time was up']);
  expect(concerns([], [], [], [], drains, begin + 25 * 3600_000)).toHaveLength(1);
});

test('a machine from the form is one that the server takes', () => {
  expect(wrongMachine({ ...emptyMachine, name: 'a' })).toEqual({});
  expect(Object.keys(wrongMachine({ ...emptyMachine, cores: '65', memory: '3Mi' }))).toEqual(['name', 'cores', 'memory']);
  expect(machineOf({ ...emptyMachine, name: 'a', cores: '2' }).spec?.template?.spec?.domain?.cpu?.cores).toBe(2);
});

test('certificates of the control plane are of concern too, where it says so', () => {
  const said = (status: 'True' | 'False') => concernsOfPlane({ conditions: [{ type: 'CertificatesExpiring', status, message: 'ends' }] });
  expect(said('True')).toMatchObject([{ kind: 'plane', why: 'ends' }]);
  expect([...said('False'), ...concernsOfPlane(undefined), ...concernsOfPlane({})]).toEqual([]);
});

test('on Kubernetes a node is as ready as its agent, and has what is for machines', () => {
  const of = (...types: [string, 'True' | 'False'][]): Node => ({
    metadata: { name: 'n' },
    status: { conditions: types.map(([type, status]) => ({ type, status })), allocatable: { cpu: '3920m', memory: '1Gi', 'whimbrel.dev/cpu': '4', 'whimbrel.dev/memory': '512Mi' } },
  });
  expect(readiness(of(['Ready', 'True'], ['MemoryPressure', 'False'], ['WhimbrelReady', 'False']))).toBe('Not ready');
  expect(readiness(of(['Ready', 'False'], ['MemoryPressure', 'False'], ['WhimbrelReady', 'True']))).toBe('Ready');
  expect(readiness(of(['Ready', 'True'], ['MemoryPressure', 'False']))).toBe('No agent');
  expect(readiness(of(['Ready', 'True']))).toBe('Ready');
  expect(loads([of()], new Map(), [], () => 0)[0]).toMatchObject({ cpus: 4, allocatable: 512 * 2 ** 20 });
});
