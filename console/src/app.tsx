import { useCallback, useEffect, useRef, useState } from 'react';
import { BrowserRouter } from 'react-router';
import { Fleet, FleetContext, rightsOf } from './api/fleet';
import { ApiError, untilAnswered, wordsOf } from './api/request';
import { machines, policies } from './api/resources';
import { redeem, type Session, storedSession, storeSession, takeCode, whoAmI } from './api/session';
import { leaveOtherTabs, sessionOfAnotherTab, tellOtherTabs } from './api/tabs';
import { LoginPage } from './pages/login';
import { Shell } from './shell';

const begin = async (session: Session, expired: () => void): Promise<Fleet> => {
  const [user, rights] = await Promise.all([whoAmI(session.token), rightsOf(session.token, machines, policies)]);
  return new Fleet(session.token, expired, user, rights);
};

/** Whoever is logged in sees the fleet; anybody else how to log in. */
export const App = () => {
  const [fleet, setFleet] = useState<Fleet>();
  const [problem, setProblem] = useState<string>();
  const [isBusy, setBusy] = useState(true);
  const begun = useRef(false);

  const leave = useCallback((why?: string) => {
    storeSession(undefined);
    setProblem(why);
    setFleet((old) => {
      old?.stop();
      return undefined;
    });
  }, []);

  const enter = useCallback(
    async (find: () => Promise<Session | undefined>) => {
      setBusy(true);
      setProblem(undefined);
      try {
        const session = await untilAnswered(find, setProblem);
        if (session) {
          // Kept at once: whoever reloads meanwhile has no second code.
          storeSession(session);
          setFleet(await untilAnswered(() => begin(session, () => leave('Your login has expired. Log in again.')), setProblem));
          setProblem(undefined);
        }
      } catch (error) {
        if (error instanceof ApiError && error.code === 401) storeSession(undefined);
        setProblem(wordsOf(error));
      }
      setBusy(false);
    },
    [leave],
  );

  useEffect(() => {
    // A code is good once: it must not be sent twice where effects run twice.
    if (begun.current) return;
    begun.current = true;
    const code = takeCode();
    void enter(async () => (code ? redeem(code) : (storedSession() ?? sessionOfAnotherTab())));
  }, [enter]);

  const token = fleet?.login.token;
  useEffect(() => (token === undefined ? undefined : tellOtherTabs({ token }, () => leave('You logged out in another tab.'))), [token, leave]);

  if (!fleet) {
    return <LoginPage isBusy={isBusy} problem={problem} onToken={(token) => enter(() => Promise.resolve({ token }))} onRetry={() => enter(() => Promise.resolve(storedSession()))} />;
  }
  return (
    <FleetContext value={fleet}>
      <BrowserRouter basename="/console">
        <Shell
          onLeave={() => {
            leaveOtherTabs();
            leave();
          }}
        />
      </BrowserRouter>
    </FleetContext>
  );
};
