/** What is sorted, by a value of each row. Names count as people count: `vm-2` before `vm-10`. */
export const sortBy = <T,>(rows: readonly T[], value: (row: T) => string | number | undefined, direction: 'asc' | 'desc'): T[] => {
  const sign = direction === 'asc' ? 1 : -1;
  const keyed = rows.map((row): [string | number | undefined, T] => {
    const found = value(row);
    return [typeof found === 'string' ? natural(found) : found, row];
  });
  keyed.sort(([left], [right]) => {
    // What has no value comes last either way.
    if (left === undefined || right === undefined) return left === right ? 0 : left === undefined ? 1 : -1;
    return left === right ? 0 : left < right ? -sign : sign;
  });
  return keyed.map(([, row]) => row);
};

const keys = new Map<string, string>();
/** Keys that are kept: more than there are names in a large fleet. */
const MOST = 100_000;

/** A text that sorts as people count. It is kept: a list of ten thousand is sorted anew with every change, and a collator takes too long for that. */
const natural = (text: string): string => {
  let key = keys.get(text);
  if (key === undefined) {
    key = text.toLowerCase().replace(/\d+/g, (digits) => digits.padStart(12, '0'));
    if (keys.size >= MOST) keys.clear();
    keys.set(text, key);
  }
  return key;
};

/** The rows of a page, from 1. A page that there is no more is the last one. */
export const pageOf = <T,>(rows: readonly T[], page: number, size: number): T[] => {
  const last = Math.max(1, Math.ceil(rows.length / size));
  const at = Math.min(Math.max(1, page), last);
  return rows.slice((at - 1) * size, at * size);
};
