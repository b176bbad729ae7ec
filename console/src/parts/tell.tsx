import { Alert, AlertActionCloseButton, AlertGroup } from '@patternfly/react-core';
import { createContext, type ReactNode, use, useCallback, useMemo, useState } from 'react';
import { wordsOf } from '../api/request';

interface Message {
  id: number;
  variant: 'success' | 'danger' | 'info';
  title: string;
  detail?: string;
}

interface Tell {
  /** Does something, and says what came of it: what was done, or why it could not be. Returns whether it was done. */
  attempt: (done: string, failed: string, work: () => Promise<unknown>) => Promise<boolean>;
}

const TellContext = createContext<Tell>({ attempt: () => Promise.resolve(false) });

export const useTell = (): Tell => use(TellContext);

let next = 0;

/** Messages that are there at a time. */
const MOST = 5;

/** With one more. Where there are too many the oldest goes, and a failure only where there are nothing but failures. */
const withMore = (all: readonly Message[], message: Message): Message[] => {
  const more = [...all, message];
  if (more.length <= MOST) return more;
  const first = Math.max(0, more.findIndex(({ variant }) => variant !== 'danger'));
  return more.filter((_, index) => index !== first);
};

/** Messages in a corner. Those of success go by themselves; what failed stays until it is closed. */
export const TellProvider = ({ children }: { children: ReactNode }) => {
  const [messages, setMessages] = useState<Message[]>([]);
  const close = useCallback((id: number) => setMessages((all) => all.filter((one) => one.id !== id)), []);
  const add = useCallback((message: Omit<Message, 'id'>) => setMessages((all) => withMore(all, { ...message, id: next++ })), []);
  const tell = useMemo<Tell>(
    () => ({
      attempt: async (done, failed, work) => {
        try {
          await work();
          add({ variant: 'success', title: done });
          return true;
        } catch (error) {
          add({ variant: 'danger', title: failed, detail: wordsOf(error) });
          return false;
        }
      },
    }),
    [add],
  );
  return (
    <TellContext value={tell}>
      {children}
      <AlertGroup isToast isLiveRegion>
        {messages.map(({ id, variant, title, detail }) => (
          <Alert component="h2"
            key={id}
            variant={variant}
            title={title}
            timeout={variant === 'danger' ? false : 8000}
            onTimeout={() => close(id)}
            actionClose={<AlertActionCloseButton onClose={() => close(id)} />}
          >
            {detail && <span className="words">{detail}</span>}
          </Alert>
        ))}
      </AlertGroup>
    </TellContext>
  );
};
