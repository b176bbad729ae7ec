/** Quantities as the command line writes them (`crates/whimbrel/src/rig/units.rs`), so that both can be compared. */

const UNITS: [number, string][] = [
  [1e12, 'TB'],
  [1e9, 'GB'],
  [1e6, 'MB'],
  [1e3, 'kB'],
];

/** Bytes with a decimal unit, as networks and rates are thought of. */
export const bytes = (count: number): string => {
  const unit = UNITS.find(([size]) => count >= size);
  if (!unit) return `${Math.round(count)} B`;
  const [size, name] = unit;
  return `${(count / size).toFixed(count < 10 * size ? 2 : 1)} ${name}`;
};

/** Bytes each second. */
export const rate = (count: number): string => `${bytes(count)}/s`;

/** Memory with a binary unit, as it is bought. */
export const memory = (count: number): string => {
  const [size, name] = count >= 2 ** 30 ? [2 ** 30, 'GiB'] : [2 ** 20, 'MiB'];
  const value = count / size;
  return `${Number.isInteger(value) ? value : value.toFixed(1)} ${name}`;
};

/** A time span: milliseconds or seconds, whichever reads best; minutes and hours where it is long. */
export const span = (milliseconds: number): string => {
  if (milliseconds === 0) return '0 s';
  if (milliseconds < 1000) return `${milliseconds >= 100 ? Math.round(milliseconds) : milliseconds.toFixed(1)} ms`;
  const seconds = milliseconds / 1000;
  if (seconds < 120) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 7200) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
};

/** How long ago something was, as people say it. A time in the future is a clock that is wrong: it is now. */
export const ago = (time: number, now: number): string => {
  const seconds = Math.max(0, Math.round((now - time) / 1000));
  if (seconds < 5) return 'just now';
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 48 * 3600) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86_400)} days ago`;
};

const FACTORS: Record<string, number> = {
  '': 1,
  Ki: 2 ** 10,
  Mi: 2 ** 20,
  Gi: 2 ** 30,
  Ti: 2 ** 40,
  Pi: 2 ** 50,
  k: 1e3,
  M: 1e6,
  G: 1e9,
  T: 1e12,
  P: 1e15,
};

/** A quantity of Kubernetes as a number; undefined where it is none. */
export const quantity = (text: string | undefined): number | undefined => {
  const match = /^(\d+)(|[KMGTP]i|[kMGTP])$/.exec(text ?? '');
  const factor = FACTORS[match?.[2] ?? ''];
  return match && factor !== undefined ? Number(match[1]) * factor : undefined;
};

/** A quantity of Kubernetes as memory; what cannot be read is shown as it is. */
export const memoryText = (text: string | undefined): string => {
  const count = quantity(text);
  return count === undefined ? (text ?? '–') : memory(count);
};

export const plural = (count: number, one: string, many = `${one}s`): string => `${count} ${count === 1 ? one : many}`;
