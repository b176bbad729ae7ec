import { useEffect, useState } from 'react';
import { backoff } from './changes';
import { useFleet } from './fleet';
import type { KubeObject } from './objects';
import { isNotThere, isPassing, wordsOf } from './request';
import type { Resource } from './resources';

/** What the fleet says to a question, or why it says nothing. Both where it said something before and cannot be reached now. */
export interface Answer<S> {
  status?: S;
  problem?: string;
  /** The server does not answer such questions at all: Kubernetes' own. */
  isAbsent?: boolean;
}

/** How long a question waits for the last key, in milliseconds. */
const PAUSE = 250;
/** How long at least an answer stands while objects change, in milliseconds. */
const REST = 1000;

/**
 * Asks the fleet what would become of something: an object that is answered in its status and not stored. It is asked again when the question
 * changes, or an object of a kind that the answer depends on, or `turn`; never twice at a time. `depends` must be the same array each time.
 */
export const useQuestion = <S extends object>(resource: Resource<KubeObject>, spec: object | undefined, depends: readonly Resource<KubeObject>[], namespace?: string, turn = 0): Answer<S> => {
  const fleet = useFleet();
  const [answer, setAnswer] = useState<Answer<S>>({});
  const text = JSON.stringify(spec);
  useEffect(() => {
    if (text === undefined) return;
    let timer: ReturnType<typeof setTimeout> | undefined;
    let isAsking = false;
    let isOld = false;
    let isOver = false;
    let failures = 0;
    const later = (pause: number) => {
      if (isAsking) isOld = true;
      else timer ??= setTimeout(() => void ask(), pause);
    };
    const ask = async () => {
      timer = undefined;
      isAsking = true;
      isOld = false;
      let wait: number | undefined;
      try {
        const { status } = await fleet.create<KubeObject & { status?: S }>(resource, { spec: JSON.parse(text) as object }, namespace);
        failures = 0;
        if (!isOver) setAnswer({ status: status ?? ({} as S) });
      } catch (error) {
        const problem = wordsOf(error);
        const mayPass = isPassing(error);
        if (mayPass) wait = Math.max(REST, backoff(failures++));
        // What was refused has no answer any more.
        if (!isOver) setAnswer((old) => (mayPass && old.status ? { status: old.status, problem } : { problem, isAbsent: isNotThere(error) }));
      }
      isAsking = false;
      if (isOver) return;
      if (wait !== undefined) later(wait);
      else if (isOld) later(REST);
    };
    later(PAUSE);
    const ends = depends.map((one) => fleet.mirror(one).subscribe(() => later(REST)));
    return () => {
      isOver = true;
      clearTimeout(timer);
      for (const end of ends) end();
    };
  }, [fleet, resource, text, depends, namespace, turn]);
  return answer;
};
