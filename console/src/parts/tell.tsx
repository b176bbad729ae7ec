import { Alert, AlertActionCloseButton, AlertGroup } from '@patternfly/react-core';
import { createContext, type ReactNode, use, useCallback, useMemo, useState } from 'react';

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

/** Messages in a corner. Those of success go by themselves; what failed stays until it is closed. */
export const TellProvider = ({ children }: { children: ReactNode }) => {
  const [messages, setMessages] = useState<Message[]>([]);
  const close = useCallback((id: number) => setMessages((all) => all.filter((one) => one.id !== id)), []);
  const add = useCallback((message: Omit<Message, 'id'>) => setMessages((all) => [...all.slice(-4), { ...message, id: next++ }]), []);
  const tell = useMemo<Tell>(
    () => ({
      attempt: async (done, failed, work) => {
        try {
          await work();
          add({ variant: 'success', title: done });
          return true;
        } catch (error) {
          add({ variant: 'danger', title: failed, detail: error instanceof Error ? error.message : String(error) });
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
