import { apply, backoff, type Change, fromList, Lines, type Objects } from './changes';
import type { KubeObject } from './objects';
import { ApiError, send } from './request';
import { pathOf, type Resource } from './resources';

/** A copy of all objects of a kind, and how good it is. */
export interface Copy<T> {
  objects: Objects<T>;
  /** `loading`: nothing is there yet. `live`: changes come in. `lost`: it is what it was, and it is tried to go on. */
  state: 'loading' | 'live' | 'lost';
  /** Why it is not live, in the words of whoever said so. */
  problem?: string;
}

/** What a mirror needs of whoever is logged in. */
export interface Login {
  token: string;
  /** Called when the server does not know the token any more. */
  expired: () => void;
  /** Called with the server's time whenever it says it, in milliseconds: the browser's clock may be wrong. */
  clock: (now: number) => void;
}

/** How long a view stands at least, in milliseconds. */
const REST = 50;
/** The same where there are many objects, since each view costs as much as there are of them. */
const REST_OF_MANY = 250;
const MANY = 1000;

/** A watch that was shorter was none, in milliseconds. */
const SHORT = 1000;

/** Lists, then watches, then lists again when that cannot go on: as every client of Kubernetes does. */
export class Mirror<T extends KubeObject> {
  private copy: Copy<T> = { objects: new Map(), state: 'loading' };
  private readonly listeners = new Set<() => void>();
  private readonly abort = new AbortController();
  private pending: Change<T>[] = [];
  /** In a row. */
  private failures = 0;
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly resource: Resource<T>,
    private readonly login: Login,
  ) {
    void this.run();
  }

  readonly snapshot = (): Copy<T> => this.copy;

  readonly subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  stop(): void {
    this.abort.abort();
    clearTimeout(this.timer);
  }

  private async run(): Promise<void> {
    while (!this.abort.signal.aborted) {
      try {
        await this.follow(await this.list());
      } catch (error) {
        if (this.abort.signal.aborted) return;
        if (error instanceof ApiError && error.code === 401) {
          this.login.expired();
          return;
        }
        // What fell out of the history is listed anew at once; nobody has to be told.
        if (!(error instanceof ApiError && error.code === 410)) {
          const problem = error instanceof Error ? error.message : String(error);
          this.set({ ...this.copy, state: this.copy.state === 'loading' ? 'loading' : 'lost', problem });
          await this.sleep(backoff(this.failures++));
        }
      }
    }
  }

  private async list(): Promise<string> {
    const { token } = this.login;
    const reply = await send('GET', pathOf(this.resource), { token, signal: this.abort.signal });
    const date = Date.parse(reply.headers.get('date') ?? '');
    if (!Number.isNaN(date)) this.login.clock(date);
    const list = (await reply.json()) as { metadata: { resourceVersion: string }; items: T[] };
    this.pending = [];
    this.set({ objects: fromList(list.items), state: 'live' });
    return list.metadata.resourceVersion;
  }

  /** Applies changes until the server ends the watch, which it does from time to time. */
  private async follow(version: string): Promise<void> {
    let from = version;
    while (!this.abort.signal.aborted) {
      const began = Date.now();
      const query = `?watch=true&allowWatchBookmarks=true&resourceVersion=${encodeURIComponent(from)}`;
      const reply = await send('GET', pathOf(this.resource) + query, { token: this.login.token, signal: this.abort.signal });
      this.failures = 0;
      if (this.copy.state !== 'live') this.set({ objects: this.copy.objects, state: 'live' });
      const reader = reply.body?.pipeThrough(new TextDecoderStream()).getReader();
      if (!reader) return;
      const lines = new Lines();
      for (;;) {
        const { done, value } = await reader.read().catch(() => {
          throw new ApiError(0, 'Unreachable', 'The connection to the control plane was lost. Machines go on meanwhile.');
        });
        if (done) break;
        for (const line of lines.push(value)) from = this.take(JSON.parse(line) as Change<T>) ?? from;
      }
      // A watch lasts for minutes: whoever ends it at once, a proxy perhaps, is not asked again at once.
      if (Date.now() - began < SHORT) await this.sleep(SHORT);
    }
  }

  /** Takes a change, and returns the version it leads to. */
  private take(change: Change<T>): string | undefined {
    if (change.type === 'ERROR') {
      const status = change.object as unknown as { code?: number; reason?: string; message?: string };
      throw new ApiError(status.code ?? 500, status.reason ?? '', status.message ?? 'The watch ended');
    }
    this.pending.push(change);
    // Many changes become one view.
    this.timer ??= setTimeout(() => {
      this.timer = undefined;
      const objects = apply(this.copy.objects, this.pending);
      this.pending = [];
      if (objects !== this.copy.objects) this.set({ ...this.copy, objects });
    }, this.copy.objects.size > MANY ? REST_OF_MANY : REST);
    return change.object.metadata.resourceVersion;
  }

  private set(copy: Copy<T>): void {
    this.copy = copy;
    for (const listener of this.listeners) listener();
  }

  private sleep(milliseconds: number): Promise<void> {
    return new Promise((resolve) => setTimeout(resolve, milliseconds));
  }
}
