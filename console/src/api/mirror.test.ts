import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { type Copy, Mirror } from './mirror';
import type { KubeObject } from './objects';
import { nodes } from './resources';
import { isPassing, request, untilAnswered } from './request';

/** What the server says to each request, in order; the last is said again and again. */
type Say = (signal: AbortSignal) => Promise<Response>;

const list = (...names: string[]) => Response.json({ metadata: { resourceVersion: '1' }, items: names.map((name) => ({ metadata: { name } })) });
/** A reply whose text comes as `push` says, and that breaks when it is given up, as those of browsers do. */
const stream = () => {
  let controller: ReadableStreamDefaultController | undefined;
  const body = new ReadableStream({ start: (given) => void (controller = given) });
  const reply: Say = (signal) => {
    signal.addEventListener('abort', () => controller?.error(signal.reason));
    return Promise.resolve(new Response(body));
  };
  return { reply, push: (text: string) => controller?.enqueue(new TextEncoder().encode(text)) };
};
const at = (reply: Response): Say => () => Promise.resolve(reply);
/** Nothing at all, until it is given up. */
const never: Say = (signal) => new Promise((_, failed) => signal.addEventListener('abort', () => failed(signal.reason as Error)));

let asked: string[] = [];
const says = (...replies: Say[]) => {
  asked = [];
  vi.stubGlobal('fetch', (path: string, { signal }: { signal: AbortSignal }) => {
    asked.push(path.includes('watch=true') ? 'watch' : 'list');
    return (replies[Math.min(asked.length, replies.length) - 1] ?? never)(signal);
  });
};

let mirror: Mirror<KubeObject> | undefined;
const begin = (): (() => Copy<KubeObject>) => {
  mirror = new Mirror<KubeObject>(nodes, { token: 't', expired: () => undefined, clock: () => undefined });
  return mirror.snapshot;
};

beforeEach(() => void vi.useFakeTimers());
afterEach(() => {
  mirror?.stop();
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

test('a list that is never answered is given up, said, and asked for again', async () => {
  says(never, at(list('a')), never);
  const now = begin();
  await vi.advanceTimersByTimeAsync(29_000);
  expect(now()).toMatchObject({ state: 'loading' });
  expect(now().problem).toBeUndefined();
  await vi.advanceTimersByTimeAsync(1_100);
  expect(now().problem).toContain('does not reply');
  await vi.advanceTimersByTimeAsync(1_000);
  expect([...now().objects.keys()]).toEqual(['/a']);
});

test('a list that comes slowly, but comes, is waited for', async () => {
  const { reply, push } = stream();
  says(reply, never);
  const now = begin();
  const text = JSON.stringify({ metadata: { resourceVersion: '1' }, items: [{ metadata: { name: 'a' } }] });
  for (const letter of text) {
    await vi.advanceTimersByTimeAsync(10_000);
    push(letter);
  }
  expect(now().state).toBe('loading');
  expect(asked).toEqual(['list']);
});

test('the head of a watch that does not come is given up, and what was listed stays', async () => {
  says(at(list('a')), never, at(list('a', 'b')), never);
  const now = begin();
  await vi.advanceTimersByTimeAsync(30_100);
  expect(now()).toMatchObject({ state: 'lost' });
  expect(now().objects.size).toBe(1);
  await vi.advanceTimersByTimeAsync(1_000);
  expect(now().objects.size).toBe(2);
});

test('a watch that is silent for longer than its bookmarks has died without a word', async () => {
  const { reply, push } = stream();
  says(at(list('a')), reply, at(list('a', 'b')), never);
  const now = begin();
  for (let count = 0; count < 5; count++) {
    await vi.advanceTimersByTimeAsync(60_000);
    push(`${JSON.stringify({ type: 'BOOKMARK', object: { metadata: { name: '', resourceVersion: String(count + 2) } } })}\n`);
  }
  expect(now().state).toBe('live');
  expect(asked).toEqual(['list', 'watch']);
  await vi.advanceTimersByTimeAsync(91_000);
  expect(asked.slice(2)).toEqual(['list', 'watch']);
  expect(now().objects.size).toBe(2);
});

test('a page of a proxy in place of a list is said, and is no list', async () => {
  says(at(new Response('<html>Sign in</html>')), at(list('a')), never);
  const now = begin();
  await vi.advanceTimersByTimeAsync(10);
  expect(now()).toMatchObject({ state: 'loading', problem: expect.stringContaining('something on the way') as string });
  await vi.advanceTimersByTimeAsync(1_000);
  expect(now()).toMatchObject({ state: 'live' });
});

test('what fails in passing is tried again, and what is refused is not', async () => {
  const status = (code: number) => at(Response.json({ message: `it says ${code}` }, { status: code }));
  says(() => Promise.reject(new TypeError('Failed to fetch')), status(503), at(Response.json({ a: 1 })));
  const told: string[] = [];
  const answer = untilAnswered(() => request<{ a: number }>('GET', '/x'), (problem) => told.push(problem));
  await vi.advanceTimersByTimeAsync(2_000);
  expect(await answer).toEqual({ a: 1 });
  expect(told).toEqual([expect.stringContaining('cannot be reached'), 'it says 503']);
  says(status(403));
  const refused = await untilAnswered(() => request('GET', '/x'), () => undefined).catch((error: unknown) => error);
  expect(refused).toMatchObject({ code: 403 });
  expect(isPassing(refused)).toBe(false);
});
