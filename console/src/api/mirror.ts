import { apply, backoff, type Change, fromList, Lines, type Objects } from './changes';
import type { KubeObject } from './objects';
import { Patience, piecesOf } from './patience';
import { ApiError, parsed, send, wordsOf } from './request';
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

/** How long it is waited for a list or the head of a watch to begin, and for each next piece of a list, in milliseconds. */
const PATIENCE = 30_000;
/** A watch in which nothing came for so long has died without a word. Bookmarks come every 30 s; from Kubernetes every minute. */
const SILENCE = 90_000;

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
          this.set({ ...this.copy, state: this.copy.state === 'loading' ? 'loading' : 'lost', problem: wordsOf(error) });
          await this.sleep(backoff(this.failures++));
        }
      }
    }
  }

  private async list(): Promise<string> {
    const patience = new Patience(this.abort.signal, PATIENCE);
    try {
      const reply = await this.ask('', patience);
      const date = Date.parse(reply.headers.get('date') ?? '');
      if (!Number.isNaN(date)) this.login.clock(date);
      // Piece by piece: ten thousand machines take their time on a slow line, and that is no silence.
      let text = '';
      for await (const piece of piecesOf(reply, patience)) text += piece;
      const list = parsed<{ metadata: { resourceVersion: string }; items: T[] }>(text);
      this.pending = [];
      this.set({ objects: fromList(list.items), state: 'live' });
      return list.metadata.resourceVersion;
    } finally {
      patience.end();
    }
  }

  /** Applies changes until the server ends the watch, which it does from time to time. */
  private async follow(version: string): Promise<void> {
    let from = version;
    while (!this.abort.signal.aborted) {
      const began = Date.now();
      from = await this.watch(from);
      // A watch lasts for minutes: whoever ends it at once, a proxy perhaps, is not asked again at once.
      if (Date.now() - began < SHORT) await this.sleep(SHORT);
    }
  }

  /** One watch to its end. Returns the version that it has led to. */
  private async watch(version: string): Promise<string> {
    const patience = new Patience(this.abort.signal, PATIENCE);
    let from = version;
    try {
      const reply = await this.ask(`?watch=true&allowWatchBookmarks=true&resourceVersion=${encodeURIComponent(from)}`, patience);
      patience.more(SILENCE);
      this.failures = 0;
      if (this.copy.state !== 'live') this.set({ objects: this.copy.objects, state: 'live' });
      const lines = new Lines();
      for await (const piece of piecesOf(reply, patience)) {
        for (const line of lines.push(piece)) from = this.take(parsed<Change<T>>(line)) ?? from;
      }
    } finally {
      patience.end();
    }
    return from;
  }

  private ask(query: string, { signal }: Patience): Promise<Response> {
    return send('GET', pathOf(this.resource) + query, { token: this.login.token, signal });
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
