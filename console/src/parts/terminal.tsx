import '@xterm/xterm/css/xterm.css';
import { Alert, Card, CardBody, CardTitle } from '@patternfly/react-core';
import { FitAddon } from '@xterm/addon-fit';
import { Terminal } from '@xterm/xterm';
import { useEffect, useRef, useState } from 'react';
import { ConsoleLink, type LinkState } from '../api/console-link';
import { type Fleet, useFleet } from '../api/fleet';
import { ApiError } from '../api/request';
import { instances } from '../api/resources';
import { strictDocument, withStrictStyle } from '../lib/strict-style';

/** Lines that one can scroll back to. */
const SCROLLBACK = 5000;

const open = (box: HTMLElement, name: string): { terminal: Terminal; fit: FitAddon } => {
  const terminal = new Terminal({
    scrollback: SCROLLBACK,
    screenReaderMode: true,
    // A serial port has no size that the guest would know of: lines are cut where the window is.
    fontFamily: getComputedStyle(box).fontFamily,
    fontSize: 13,
    documentOverride: strictDocument(),
  });
  const fit = new FitAddon();
  terminal.loadAddon(fit);
  withStrictStyle(() => terminal.open(box));
  terminal.textarea?.setAttribute('aria-label', `Serial console of ${name}: what is typed goes to the guest`);
  // What the browser uses to go from part to part: whoever has no mouse comes out again.
  terminal.attachCustomKeyEventHandler(({ key }) => key !== 'F6');
  fit.fit();
  return { terminal, fit };
};

/** How long it is waited for what was before, in milliseconds. */
const PATIENCE = 5000;

/** The end of what the guest has written. Without it there is only what comes from now on. */
const log = async (fleet: Fleet, namespace: string, name: string): Promise<Uint8Array> => {
  try {
    const reply = await fleet.kept(instances, { metadata: { namespace, name } }, 'log', AbortSignal.timeout(PATIENCE));
    return new Uint8Array(await reply.arrayBuffer());
  } catch {
    return new Uint8Array();
  }
};

/** What the server says to whoever asks for the console without a WebSocket: 400 where nothing but that is wrong. */
const refusal = async (fleet: Fleet, namespace: string, name: string): Promise<string | undefined> => {
  try {
    await fleet.kept(instances, { metadata: { namespace, name } }, 'console', AbortSignal.timeout(PATIENCE));
    return undefined;
  } catch (error) {
    if (error instanceof ApiError) return error.code === 400 ? 'somebody else has it, or it has just ended' : error.message;
    return undefined;
  }
};

const Notice = ({ link, isLost }: { link: LinkState; isLost: boolean }) => {
  if (link.state === 'lost') {
    return (
      <Alert component="h3" isInline variant="warning" title="The console is not connected; it is tried again">
        <span className="words">{link.why}</span>
        {isLost && <p>What was typed meanwhile was not sent.</p>}
      </Alert>
    );
  }
  return <Alert component="h3" isInline isPlain variant="info" title={link.state === 'open' ? 'Connected. What is typed goes to the guest; F6 leaves the terminal.' : 'Connecting'} />;
};

/** The serial console of a machine, both ways. It is connected again when the machine moves, when it restarts, and when the control plane does. */
const TerminalView = ({ namespace, name }: { namespace: string; name: string }) => {
  const fleet = useFleet();
  const box = useRef<HTMLDivElement>(null);
  const [link, setLink] = useState<LinkState>({ state: 'connecting' });
  const [isLost, setLost] = useState(false);
  const { token } = fleet.login;
  useEffect(() => {
    const { current } = box;
    if (!current) return;
    const { terminal, fit } = open(current, name);
    let shown: string | undefined;
    // Pieces of old output that the terminal has not gone through yet.
    let replaying = 0;
    const connection = new ConsoleLink({ namespace, name, token }, {
      before: async () => {
        const vmm = fleet.mirror(instances).snapshot().objects.get(`${namespace}/${name}`)?.status?.vmm;
        // The log of the same VMM has what is on the screen; that of another goes on from there.
        if (shown === vmm) terminal.reset();
        shown = vmm;
        return log(fleet, namespace, name);
      },
      take: (bytes, isOld) => {
        if (!isOld) {
          terminal.write(bytes);
          return;
        }
        replaying++;
        terminal.write(bytes, () => replaying--);
      },
      tell: (state) => {
        setLink(state);
        if (state.state === 'open') setLost(false);
      },
      ask: () => refusal(fleet, namespace, name),
    });
    const encoder = new TextEncoder();
    const typed = terminal.onData((text) => {
      // The terminal replies to what the guest asked long ago (ESC[6n and the like), and nothing tells that from keys.
      if (replaying > 0) return;
      if (!connection.send(encoder.encode(text))) setLost(true);
    });
    const bytes = terminal.onBinary((text) => {
      if (replaying > 0) return;
      connection.send(Uint8Array.from(text, (letter) => letter.charCodeAt(0)));
    });
    const watcher = new ResizeObserver(() => fit.fit());
    watcher.observe(current);
    return () => {
      watcher.disconnect();
      typed.dispose();
      bytes.dispose();
      connection.end();
      terminal.dispose();
    };
  }, [fleet, namespace, name, token]);
  return (
    <Card>
      <CardTitle component="h2">Serial console</CardTitle>
      <CardBody>
        <Notice link={link} isLost={isLost} />
        <div ref={box} className="terminal" />
      </CardBody>
    </Card>
  );
};

export default TerminalView;
