import { ApiError } from './request';

/** Gives something up when nothing comes of it for so many milliseconds, or when whoever wants it ends. */
export class Patience {
  private readonly own = new AbortController();
  private timer: ReturnType<typeof setTimeout> | undefined;
  readonly signal: AbortSignal;

  constructor(
    outer: AbortSignal,
    private milliseconds: number,
  ) {
    this.signal = AbortSignal.any([outer, this.own.signal]);
    this.more();
  }

  /** Something came: it is waited for the next, for as long again or for as long as is said. */
  more(milliseconds = this.milliseconds): void {
    this.milliseconds = milliseconds;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.own.abort(new DOMException('Nothing has come', 'TimeoutError')), milliseconds);
  }

  /** It is over. */
  end(): void {
    clearTimeout(this.timer);
  }
}

/** The pieces of a reply's text as they come, for each of which is waited as long as patience has it. */
export async function* piecesOf(reply: Response, patience: Patience): AsyncGenerator<string> {
  const reader = reply.body?.pipeThrough(new TextDecoderStream()).getReader();
  if (!reader) return;
  try {
    for (;;) {
      const { done, value } = await reader.read().catch(() => {
        throw new ApiError(0, 'Unreachable', 'The connection to the control plane was lost. Machines go on meanwhile.');
      });
      if (done) return;
      patience.more();
      yield value;
    }
  } finally {
    // Whoever does not want the rest: the server need not go on.
    await reader.cancel().catch(() => undefined);
  }
}
