import { isNotThere, request } from './request';

/**
 * Who is logged in. The token stays in the tabs of this console: it survives a reload and ends with the last of them. There is no cookie, which
 * would go to every other server of this host too, and which other pages could use.
 */
export interface Session {
  token: string;
}

const KEY = 'whimbrel.session';

export const storedSession = (): Session | undefined => {
  try {
    const found: unknown = JSON.parse(sessionStorage.getItem(KEY) ?? 'null');
    const isSession = typeof found === 'object' && found !== null && 'token' in found && typeof found.token === 'string';
    return isSession ? (found as Session) : undefined;
  } catch {
    return undefined;
  }
};

export const storeSession = (session: Session | undefined): void => {
  try {
    if (session) sessionStorage.setItem(KEY, JSON.stringify(session));
    else sessionStorage.removeItem(KEY);
  } catch {
    // A browser that keeps nothing: the login lasts until the page is left.
  }
};

/** The code of an address that was clicked. It is taken out of the address, so that it does not stay in the history. */
export const takeCode = (): string | undefined => {
  const code = /^#login=([\w-]+)$/.exec(location.hash)?.[1];
  if (code) history.replaceState(null, '', location.pathname);
  return code;
};

export const redeem = async (code: string): Promise<Session> => {
  const reply = await request<{ token: string }>('POST', '/console/session', { body: { code } });
  return { token: reply.token };
};

/** Who a token belongs to, by the word of the server. One that cannot say it (Kubernetes before 1.28) is no obstacle: it refuses whoever has no right to everything. */
export const whoAmI = async (token: string): Promise<string> => {
  const path = '/apis/authentication.k8s.io/v1/selfsubjectreviews';
  const body = { apiVersion: 'authentication.k8s.io/v1', kind: 'SelfSubjectReview' };
  try {
    const review = await request<{ status?: { userInfo?: { username?: string } } }>('POST', path, { body, token });
    return review.status?.userInfo?.username ?? 'unknown';
  } catch (error) {
    if (isNotThere(error)) return 'unknown';
    throw error;
  }
};
