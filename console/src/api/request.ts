import { backoff } from './changes';

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

const silent = (): ApiError => new ApiError(0, 'Timeout', 'The control plane does not reply. Machines go on meanwhile.');

/** What went wrong, for people: a browser's own words for it (`signal timed out`, `Failed to fetch`) say nothing to them. */
const inWords = (error: unknown, signal: AbortSignal | undefined): unknown => {
  if (error instanceof ApiError) return error;
  if (signal?.aborted) return signal.reason instanceof DOMException && signal.reason.name === 'TimeoutError' ? silent() : error;
  return new ApiError(0, 'Unreachable', 'The control plane cannot be reached. Machines go on meanwhile.');
};

/** Sends a request, and returns the reply once its head is there. */
export const send = async (method: string, path: string, options: Options = {}): Promise<Response> => {
  const init: RequestInit = { method, headers: headersOf(options), credentials: 'omit', cache: 'no-store' };
  if (options.body !== undefined) init.body = JSON.stringify(options.body);
  if (options.signal) init.signal = options.signal;
  const reply = await fetch(path, init).catch((error: unknown) => {
    throw inWords(error, options.signal);
  });
  if (reply.ok) return reply;
  const status = (await reply.json().catch(() => ({}))) as { message?: string; reason?: string } | null;
  throw new ApiError(reply.status, status?.reason ?? reply.statusText, status?.message ?? `The server says ${reply.status}`);
};

/** Sends a request, and returns what the server says. */
export const request = async <T>(method: string, path: string, options: Options = {}): Promise<T> => {
  const signal = options.signal ?? AbortSignal.timeout(PATIENCE);
  const reply = await send(method, path, { ...options, signal });
  const text = await reply.text().catch((error: unknown) => {
    throw inWords(error, signal);
  });
  return parsed<T>(text);
};

/** What a text of the server says. A proxy on the way may have a page of its own for everything. */
export const parsed = <T>(text: string): T => {
  try {
    return JSON.parse(text) as T;
  } catch {
    throw new ApiError(502, 'BadGateway', 'What came is not from the control plane: something on the way has replied in its place.');
  }
};

/** The words of an error. */
export const wordsOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/** Whether it may be otherwise in a moment: the way to the server or the server itself fails, or it has too much to do. */
export const isPassing = (error: unknown): boolean => error instanceof ApiError && (error.code === 0 || error.code === 429 || error.code >= 500);

/**
 * Whether a server does not have a kind. Kubernetes looks at rights first, and nobody gives rights to what is not there: it says that only to those who may do
 * everything, and to others that they may not.
 */
export const isNotThere = (error: unknown): boolean => error instanceof ApiError && (error.code === 404 || error.code === 403);

/** Does something until it is answered, ever more rarely, and tells meanwhile why it was not. What is refused is not tried again. */
export const untilAnswered = async <T>(work: () => Promise<T>, tell: (problem: string) => void): Promise<T> => {
  for (let failures = 0; ; failures++) {
    try {
      return await work();
    } catch (error) {
      if (!isPassing(error)) throw error;
      tell(wordsOf(error));
    }
    await new Promise((resolve) => setTimeout(resolve, backoff(failures)));
  }
};
