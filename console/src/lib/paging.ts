/** What is sorted, by a value of each row. Names count as people count: `vm-2` before `vm-10`. */
export const sortBy = <T,>(rows: readonly T[], value: (row: T) => string | number | undefined, direction: 'asc' | 'desc'): T[] => {
  const sign = direction === 'asc' ? 1 : -1;
  return [...rows].sort((one, other) => {
    const [left, right] = [value(one), value(other)];
    // What has no value comes last either way.
    if (left === undefined || right === undefined) return left === right ? 0 : left === undefined ? 1 : -1;
    if (typeof left === 'number' && typeof right === 'number') return sign * (left - right);
    return sign * collator.compare(String(left), String(right));
  });
};

const collator = new Intl.Collator('en', { numeric: true });

/** The rows of a page, from 1. A page that there is no more is the last one. */
export const pageOf = <T,>(rows: readonly T[], page: number, size: number): T[] => {
  const last = Math.max(1, Math.ceil(rows.length / size));
  const at = Math.min(Math.max(1, page), last);
  return rows.slice((at - 1) * size, at * size);
};
