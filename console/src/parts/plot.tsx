import { Flex, FlexItem } from '@patternfly/react-core';
import { polyline } from '../lib/slices';

export interface Series {
  name: string;
  points: { at: number; value: number }[];
}

interface Props {
  title: string;
  series: Series[];
  unit: (value: number) => string;
}

/** Lines over time. What they say last stands beside them as text, so that nobody has to see colours. */
export const Plot = ({ title, series, unit }: Props) => {
  const points = series.flatMap((one) => one.points);
  const top = Math.max(0, ...points.map(({ value }) => value));
  const from = Math.min(...points.map(({ at }) => at));
  const to = Math.max(...points.map(({ at }) => at));
  return (
    <figure>
      <figcaption>
        {title} <span className="numeric">(up to {unit(top)})</span>
      </figcaption>
      <svg className="plot" viewBox="0 0 600 120" preserveAspectRatio="none" role="img" aria-label={title}>
        <line x1="0" y1="119.5" x2="600" y2="119.5" />
        {series.map((one, index) => (
          <polyline key={one.name} className={`series-${index}`} points={polyline(one.points, from, to, top, 600, 118)} />
        ))}
      </svg>
      <Flex>
        {series.map((one, index) => (
          <FlexItem key={one.name}>
            <svg width="16" height="8" aria-hidden="true">
              <line className={`series-${index}`} x1="0" y1="4" x2="16" y2="4" strokeWidth="3" />
            </svg>{' '}
            {one.name}: <span className="numeric">{unit(one.points.at(-1)?.value ?? 0)}</span>
          </FlexItem>
        ))}
      </Flex>
    </figure>
  );
};
