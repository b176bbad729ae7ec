/** A refusal of the server, in its words, or that it cannot be reached. */
export class ApiError extends Error {
  constructor(
    readonly code: number,
    readonly reason: string,
    message: string,
  ) {
    super(message);
  }
}

export interface Options {
  token?: string | undefined;
  body?: unknown;
  contentType?: string;
  signal?: AbortSignal;
}

/** How long a request may take that is not a watch, in milliseconds. */
const PATIENCE = 30_000;

const headersOf = ({ token, body, contentType }: Options): Record<string, string> => ({
  Accept: 'application/json',
  ...(token ? { Authorization: `Bearer ${token}` } : {}),
  ...(body === undefined ? {} : { 'Content-Type': contentType ?? 'application/json' }),
});

/** Sends a request, and returns the reply once its head is there. */
export const send = async (method: string, path: string, options: Options = {}): Promise<Response> => {
  const init: RequestInit = { method, headers: headersOf(options), credentials: 'omit', cache: 'no-store' };
  if (options.body !== undefined) init.body = JSON.stringify(options.body);
  if (options.signal) init.signal = options.signal;
  let reply: Response;
  try {
    reply = await fetch(path, init);
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new ApiError(0, 'Unreachable', 'The control plane cannot be reached. Machines go on meanwhile.');
  }
  if (reply.ok) return reply;
  const status = (await reply.json().catch(() => ({}))) as { message?: string; reason?: string };
  throw new ApiError(reply.status, status.reason ?? reply.statusText, status.message ?? `The server says ${reply.status}`);
};

/** Sends a request, and returns what the server says. */
export const request = async <T>(method: string, path: string, options: Options = {}): Promise<T> => {
  const reply = await send(method, path, { ...options, signal: options.signal ?? AbortSignal.timeout(PATIENCE) });
  return (await reply.json()) as T;
};
