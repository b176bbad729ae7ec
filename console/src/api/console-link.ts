import { backoff } from './changes';
import { instances, pathOf } from './resources';

/** How the connection to a serial console is. */
export type LinkState = { state: 'connecting' } | { state: 'open' } | { state: 'lost'; why: string };

/** How much is held back at most until it is known what was before, in bytes: as much as the log that is sent has. */
const HELD = 64 << 10;

/** The subprotocol of a console whose binary frames are its bytes, by the name that KubeVirt gave it. */
const PLAIN = 'plain.kubevirt.io';

/** A token as browsers send it with a WebSocket, which can have no `Authorization`: as Kubernetes reads it. */
export const bearerProtocol = (token: string): string => {
  const binary = String.fromCharCode(...new TextEncoder().encode(token));
  return `base64url.bearer.authorization.k8s.io.${btoa(binary).replace(/\+/g, '-').replace(/\//g, '_').replace(/=+$/, '')}`;
};

/** What a WebSocket that closed says of itself, as the end of a sentence. */
export const whyClosed = (code: number, reason: string): string => {
  if (reason) return reason;
  // 1006 is what a browser says of everything that it does not want to tell.
  return code === 1006 ? 'the connection was refused or broke' : `it was closed with code ${code}`;
};

/** Fewer equal bytes than these at the seam are chance: a line end, say, that the guest has written twice. */
const SURE = 4;

/**
 * What of `bytes` is not the end of `before` already: of what was said meanwhile both may have a part. It takes time in proportion to both,
 * whatever the guest wrote: the longest end of one that is a beginning of the other, as Knuth, Morris and Pratt find it.
 */
export const beyond = (before: Uint8Array, bytes: Uint8Array): Uint8Array => {
  const longest = Math.min(before.length, bytes.length);
  // For each beginning of `bytes`, the longest shorter beginning that it ends with.
  const shorter = new Uint32Array(longest);
  const longer = (length: number, byte: number | undefined): number => {
    let found = length;
    while (found > 0 && bytes[found] !== byte) found = shorter[found - 1] ?? 0;
    return bytes[found] === byte ? found + 1 : 0;
  };
  for (let index = 1; index < longest; index++) shorter[index] = longer(shorter[index - 1] ?? 0, bytes[index]);
  let length = 0;
  for (const byte of before.subarray(before.length - longest)) length = longer(length, byte);
  return length >= SURE || length === bytes.length ? bytes.subarray(length) : bytes;
};

const joined = (pieces: readonly Uint8Array[]): Uint8Array => {
  const all = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.length;
  }
  return all;
};

/** What a console needs of whoever shows it. */
export interface Screen {
  /** What was said before it was connected. */
  before: () => Promise<Uint8Array>;
  /** Shows what the guest said. What is old is of before the connection: whoever asked something there has got the reply, and gets no other. */
  take: (bytes: Uint8Array, isOld: boolean) => void;
  tell: (state: LinkState) => void;
  /** Why it cannot be connected, if the server says: browsers do not tell what it said to the handshake. */
  ask: () => Promise<string | undefined>;
}

/** The serial console of a machine, both ways. It is connected again whenever it is lost, until it is ended. */
export class ConsoleLink {
  private socket: WebSocket | undefined;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private failures = 0;
  private isOver = false;

  constructor(
    private readonly where: { namespace: string; name: string; token: string },
    private readonly screen: Screen,
  ) {
    this.connect();
  }

  /** Sends what was typed. What is typed while there is no connection is lost, which is told: it is not sent to whatever comes next. */
  send(bytes: Uint8Array<ArrayBuffer>): boolean {
    if (this.socket?.readyState !== WebSocket.OPEN) return false;
    this.socket.send(bytes);
    return true;
  }

  end(): void {
    this.isOver = true;
    clearTimeout(this.timer);
    this.socket?.close();
  }

  private connect(): void {
    const { screen } = this;
    screen.tell({ state: 'connecting' });
    const { namespace, name, token } = this.where;
    const url = `wss://${location.host}${pathOf(instances, namespace, name)}/console`;
    const socket = new WebSocket(url, [PLAIN, bearerProtocol(token)]);
    socket.binaryType = 'arraybuffer';
    // What comes while it is not known yet what was before.
    let held: Uint8Array[] | undefined = [];
    let heldBytes = 0;
    let isOpen = false;
    const release = (before: Uint8Array) => {
      const pieces = joined(held ?? []);
      held = undefined;
      screen.take(before, true);
      screen.take(beyond(before, pieces), false);
    };
    socket.onopen = async () => {
      isOpen = true;
      screen.tell({ state: 'open' });
      const before = await screen.before();
      if (!this.isOver && held) release(before);
    };
    socket.onmessage = ({ data }) => {
      // Only now it is known to work: one that opens and ends at once is tried again ever more rarely.
      this.failures = 0;
      if (!(data instanceof ArrayBuffer)) return;
      if (!held) {
        screen.take(new Uint8Array(data), false);
        return;
      }
      held.push(new Uint8Array(data));
      heldBytes += data.byteLength;
      // It says more than its log would show of what was before: that is waited for no longer.
      if (heldBytes > HELD) release(new Uint8Array());
    };
    socket.onclose = async ({ code, reason }) => {
      if (this.isOver) return;
      screen.tell({ state: 'lost', why: whyClosed(code, reason) });
      this.timer = setTimeout(() => this.connect(), backoff(this.failures++));
      if (isOpen) return;
      // Somebody else has it, or there is none here: what the guest says is there to read all the same.
      const [why, before] = await Promise.all([screen.ask(), screen.before()]);
      if (!this.isOver && this.socket === socket) screen.take(before, true);
      // It may have been connected meanwhile.
      if (why && !this.isOver && this.socket === socket) screen.tell({ state: 'lost', why });
    };
    this.socket = socket;
  }
}
