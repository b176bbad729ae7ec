import { useEffect, useState } from 'react';
import { backoff } from './changes';
import { wordsOf } from './request';

/** What was said last, and why there is nothing new. */
export interface Polled<T> {
  value?: T;
  problem?: string;
  /** In a row. */
  failures: number;
}

export interface How<T> {
  /** Milliseconds from one reply to the next question: a slow server is not asked more often than it can say. */
  every: number;
  /** How long a reply may take, in milliseconds. */
  patience?: number;
  /** Whether that is the last word. */
  isLast?: (value: T) => boolean;
  /** After so many failures in a row it is not asked again. */
  tries?: number;
}

const PATIENCE = 30_000;

/**
 * Asks again and again as long as the view is there. `ask` is given what was said last, and may return the same; it and `how` must be the same
 * objects as long as the question is.
 */
export const usePolled = <T,>(ask: ((signal: AbortSignal, before: T | undefined) => Promise<T>) | undefined, how: How<T>): Polled<T> => {
  const [kept, setKept] = useState<Polled<T> & { ask?: typeof ask }>({ failures: 0 });
  useEffect(() => {
    if (!ask) return;
    const { every, patience = PATIENCE, isLast, tries = Infinity } = how;
    const abort = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    let last: T | undefined;
    let failures = 0;
    const look = async () => {
      let wait: number | undefined = every;
      try {
        const value = await ask(AbortSignal.any([abort.signal, AbortSignal.timeout(patience)]), last);
        if (abort.signal.aborted) return;
        failures = 0;
        last = value;
        setKept((old) => (old.ask === ask && old.failures === 0 && old.value === value ? old : { ask, value, failures }));
        if (isLast?.(value)) wait = undefined;
      } catch (error) {
        if (abort.signal.aborted) return;
        failures += 1;
        const told = { ask, problem: wordsOf(error), failures, ...(last === undefined ? {} : { value: last }) };
        setKept(told);
        wait = failures >= tries ? undefined : Math.max(every, backoff(failures));
      }
      if (wait !== undefined) timer = setTimeout(() => void look(), wait);
    };
    void look();
    return () => {
      abort.abort();
      clearTimeout(timer);
    };
  }, [ask, how]);
  return kept.ask === ask ? kept : { failures: 0 };
};
