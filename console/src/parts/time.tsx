import { Tooltip } from '@patternfly/react-core';
import { useEffect, useState } from 'react';
import { useFleet } from '../api/fleet';
import { ago, span } from '../lib/units';

/** The server's time, told anew every so many milliseconds. */
export const useNow = (every = 1000): number => {
  const fleet = useFleet();
  const [now, setNow] = useState(fleet.now);
  useEffect(() => {
    const timer = setInterval(() => setNow(fleet.now()), every);
    return () => clearInterval(timer);
  }, [fleet, every]);
  return now;
};

/** How long ago something was, with the exact time in a tooltip. */
export const Time = ({ at }: { at: string | undefined }) => {
  const now = useNow(5000);
  const time = Date.parse(at ?? '');
  if (Number.isNaN(time)) return <>–</>;
  return (
    // Within the view, where those who move from landmark to landmark come by.
    <Tooltip content={new Date(time).toLocaleString()} appendTo={() => document.querySelector('main') ?? document.body}>
      <time dateTime={at} className="numeric" tabIndex={0}>
        {ago(time, now)}
      </time>
    </Tooltip>
  );
};

/** How long it is until something that will be, with the exact time in a tooltip. */
export const Until = ({ at }: { at: string }) => {
  const now = useNow(1000);
  const time = Date.parse(at);
  return (
    <Tooltip content={new Date(time).toLocaleString()} appendTo={() => document.querySelector('main') ?? document.body}>
      <time dateTime={at} className="numeric" tabIndex={0}>
        {time > now ? `in ${span(Math.ceil((time - now) / 1000) * 1000)}` : 'now'}
      </time>
    </Tooltip>
  );
};
