import type { Instance } from '../api/objects';
import type { DiskUsage, Usage } from '../api/usage';

/** Counters as they were seen, with the time here. */
export interface Look {
  at: number;
  usage: Usage;
}

/** What a machine did between two looks. Rates are in bytes each second; CPU in CPUs that were busy. */
export interface Rates {
  at: number;
  /** Of the vCPUs; undefined where the host does not count it. */
  guestCpus: number | undefined;
  /** Of the VMM's other threads: devices, and migrations. */
  otherCpus: number | undefined;
  read: number | undefined;
  written: number | undefined;
  received: number;
  sent: number;
}

/** Looks that are kept: half an hour at one each two seconds. */
const KEPT = 900;

/** Adds a look. One that is no newer than the last is none; with another VMM counters begin anew, and the lines go on. */
export const addLook = (looks: readonly Look[], next: Look): readonly Look[] => {
  const last = looks.at(-1);
  if (last && last.usage.vmm === next.usage.vmm && next.usage.atSeconds <= last.usage.atSeconds) return looks;
  return [...looks.slice(-KEPT + 1), next];
};

const sum = (usage: Usage, name: 'receivedBytes' | 'sentBytes'): number => usage.networks.reduce((all, network) => all + network[name], 0);

/** What was done between each look and the one before. Between two VMMs nothing is known. */
export const ratesOf = (looks: readonly Look[]): Rates[] => {
  const rates: Rates[] = [];
  for (const [index, { at, usage }] of looks.entries()) {
    const before = looks[index - 1]?.usage;
    if (!before || before.vmm !== usage.vmm) continue;
    const seconds = usage.atSeconds - before.atSeconds;
    // A counter that runs backwards has begun anew: a tap interface that was made again.
    const each = (now: number | undefined, then: number | undefined) => (now === undefined || then === undefined ? undefined : Math.max(0, now - then) / seconds);
    const guest = each(usage.cpu.vcpuSeconds, before.cpu.vcpuSeconds);
    const all = each(usage.cpu.vmmSeconds, before.cpu.vmmSeconds) ?? 0;
    rates.push({
      at,
      guestCpus: guest,
      // The two are counted at different places and rounded differently: what is a little below nothing is nothing.
      otherCpus: guest === undefined ? all : Math.max(0, all - guest),
      read: each(usage.storage?.readBytes, before.storage?.readBytes),
      written: each(usage.storage?.writtenBytes, before.storage?.writtenBytes),
      received: each(sum(usage, 'receivedBytes'), sum(before, 'receivedBytes')) ?? 0,
      sent: each(sum(usage, 'sentBytes'), sum(before, 'sentBytes')) ?? 0,
    });
  }
  return rates;
};

/** What one disk does now, each second. */
export interface DiskRates {
  name: string;
  path: string | undefined;
  reads: number;
  writes: number;
  flushes: number;
  read: number;
  written: number;
  /** Milliseconds that a request takes; undefined where there was none. */
  readMs: number | undefined;
  writeMs: number | undefined;
  flushMs: number | undefined;
  /** Since the VMM began. */
  errors: number;
}

/** Over how many looks a disk is looked at: requests come in bursts. */
const SPAN = 5;

/** What each disk did over the last looks; undefined where nobody counts it, or nothing is known yet. */
export const diskRates = (looks: readonly Look[]): DiskRates[] | undefined => {
  const last = looks.at(-1)?.usage;
  const first = looks.slice(-SPAN - 1).find(({ usage }) => usage.vmm === last?.vmm && usage.disks)?.usage;
  if (!last?.disks || !first || first.atSeconds >= last.atSeconds) return undefined;
  const seconds = last.atSeconds - first.atSeconds;
  return last.disks.map((now) => {
    const then = first.disks?.find(({ name }) => name === now.name);
    const more = (of: (disk: DiskUsage) => number) => Math.max(0, of(now) - (then ? of(then) : 0));
    const each = (of: (disk: DiskUsage) => number) => more(of) / seconds;
    const took = (time: (disk: DiskUsage) => number, of: (disk: DiskUsage) => number) => (more(of) > 0 ? (more(time) / more(of)) * 1000 : undefined);
    return {
      name: now.name,
      path: now.path,
      reads: each(({ reads }) => reads),
      writes: each(({ writes }) => writes),
      flushes: each(({ flushes }) => flushes),
      read: each(({ readBytes }) => readBytes),
      written: each(({ writtenBytes }) => writtenBytes),
      readMs: took(({ readSeconds }) => readSeconds, ({ reads }) => reads),
      writeMs: took(({ writeSeconds }) => writeSeconds, ({ writes }) => writes),
      flushMs: took(({ flushSeconds }) => flushSeconds, ({ flushes }) => flushes),
      errors: now.errors,
    };
  });
};

/** What the description of a machine calls its disks, by what the VMM calls them: both have them in the same order. */
export const diskNames = (instance: Instance, disks: readonly { name: string }[]): ReadonlyMap<string, string> => {
  const named = instance.spec?.domain?.devices?.disks ?? [];
  return new Map(disks.map(({ name }, index) => [name, named.length === disks.length ? (named[index]?.name ?? name) : name]));
};

/** CPUs that were busy, as people say it: 100 % is one. */
export const cpus = (count: number): string => `${Math.round(count * 100)} % of a CPU`;
