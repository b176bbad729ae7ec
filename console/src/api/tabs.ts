import type { Session } from './session';

/**
 * Tabs of this console tell each other who is logged in, so that a link which is opened in a new tab leads where it should. Only pages of this server
 * hear it, nothing is stored, and the login still ends with the last tab.
 */
const CHANNEL = 'whimbrel.session';

type Message = { type: 'who' } | { type: 'session'; session: Session } | { type: 'left' };

/** How long it is waited for another tab, in milliseconds. */
const PATIENCE = 300;

/** The session of another tab; undefined where there is none that says so at once. */
export const sessionOfAnotherTab = (): Promise<Session | undefined> =>
  new Promise((resolve) => {
    const channel = new BroadcastChannel(CHANNEL);
    const end = (session?: Session) => {
      clearTimeout(timer);
      channel.close();
      resolve(session);
    };
    const timer = setTimeout(() => end(), PATIENCE);
    channel.onmessage = ({ data }: MessageEvent<Message>) => {
      if (data.type === 'session') end(data.session);
    };
    channel.postMessage({ type: 'who' } satisfies Message);
  });

/** Says to other tabs who is logged in here, and hears when somebody logs out in one of them. Returns how that is ended. */
export const tellOtherTabs = (session: Session, left: () => void): (() => void) => {
  const channel = new BroadcastChannel(CHANNEL);
  channel.onmessage = ({ data }: MessageEvent<Message>) => {
    if (data.type === 'who') channel.postMessage({ type: 'session', session } satisfies Message);
    if (data.type === 'left') left();
  };
  return () => channel.close();
};

/** Somebody has logged out here, and so everywhere. */
export const leaveOtherTabs = (): void => {
  const channel = new BroadcastChannel(CHANNEL);
  channel.postMessage({ type: 'left' } satisfies Message);
  channel.close();
};
