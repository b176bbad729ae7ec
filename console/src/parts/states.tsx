import { Bullseye, EmptyState, EmptyStateBody, Spinner } from '@patternfly/react-core';
import type { ReactNode } from 'react';
import type { Copy } from '../api/mirror';

interface Props {
  copy: Copy<unknown>;
  /** Whether there is nothing to show. */
  isEmpty: boolean;
  /** What is said then, and what can be done. */
  empty: string;
  hint?: ReactNode;
  children: ReactNode;
}

/** A list, or why there is none: it is still loading, the server does not give it, or there is nothing. */
export const States = ({ copy, isEmpty, empty, hint, children }: Props) => {
  if (copy.state === 'loading' && copy.problem !== undefined) {
    return (
      <EmptyState titleText="It cannot be shown yet" headingLevel="h2" status="warning">
        <EmptyStateBody className="words">{copy.problem} It is tried again.</EmptyStateBody>
      </EmptyState>
    );
  }
  if (copy.state === 'loading') {
    return (
      <Bullseye>
        <Spinner aria-label="Loading" />
      </Bullseye>
    );
  }
  if (!isEmpty) return <>{children}</>;
  return (
    <EmptyState titleText={empty} headingLevel="h2">
      {hint && <EmptyStateBody>{hint}</EmptyStateBody>}
    </EmptyState>
  );
};

/** An object that is not there: it has never been, or was deleted while its page was open. */
export const Missing = ({ copy, what }: { copy: Copy<unknown>; what: string }) => (
  <States copy={copy} isEmpty empty={`There is no ${what}`} hint="It may have been deleted.">
    {null}
  </States>
);

/** The worst of several copies: what is drawn of all of them is as good as that one. */
export const worstOf = (...copies: Copy<unknown>[]): Copy<unknown> =>
  copies.find(({ state, problem }) => state === 'loading' && problem !== undefined) ?? copies.find(({ state }) => state === 'loading') ?? copies.find(({ state }) => state === 'lost') ?? { objects: new Map(), state: 'live' };
