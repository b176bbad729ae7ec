/** Parts of a circle whose circumference is 100: where each begins and how long it is. Nothing at all has no parts. */
export const slices = (counts: readonly number[]): { begin: number; length: number }[] => {
  const total = counts.reduce((sum, count) => sum + count, 0);
  let begin = 0;
  return counts.map((count) => {
    const length = total === 0 ? 0 : (count / total) * 100;
    const slice = { begin, length };
    begin += length;
    return slice;
  });
};

/** Points of a line in a box, for an SVG polyline: time goes right, values up. The largest value of all lines is the top. */
export const polyline = (points: readonly { at: number; value: number }[], from: number, to: number, top: number, width: number, height: number): string => {
  const x = (at: number) => (to > from ? ((at - from) / (to - from)) * width : 0);
  const y = (value: number) => height - (top > 0 ? (Math.min(value, top) / top) * height : 0);
  return points.map(({ at, value }) => `${x(at).toFixed(1)},${y(value).toFixed(1)}`).join(' ');
};
