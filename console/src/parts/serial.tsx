import { Alert, Card, CardBody, CardTitle } from '@patternfly/react-core';
import { useEffect, useRef, useState } from 'react';
import { useFleet } from '../api/fleet';
import type { Instance } from '../api/objects';
import { instances } from '../api/resources';

/** How often it is read, in milliseconds. */
const EVERY = 1000;

/** The end of what the guest writes to its serial port, read again every second. */
const useLog = (instance: Instance): { text?: string; problem?: string } => {
  const fleet = useFleet();
  const [answer, setAnswer] = useState<{ text?: string; problem?: string }>({});
  const { namespace, name } = instance.metadata;
  useEffect(() => {
    const abort = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const object = { metadata: { name, ...(namespace === undefined ? {} : { namespace }) } };
    const look = async () => {
      try {
        const reply = await fleet.kept(instances, object, 'log', abort.signal);
        const text = await reply.text();
        setAnswer((old) => (old.text === text && old.problem === undefined ? old : { text }));
      } catch (error) {
        if (abort.signal.aborted) return;
        setAnswer((old) => ({ ...old, problem: error instanceof Error ? error.message : String(error) }));
      }
      // The next only when this one is over: a slow server is not asked more often than it can say.
      if (!abort.signal.aborted) timer = setTimeout(() => void look(), EVERY);
    };
    void look();
    return () => {
      abort.abort();
      clearTimeout(timer);
    };
  }, [fleet, namespace, name]);
  return answer;
};

/** The serial port of a machine, to be read. It follows the machine when it moves: the log begins anew with each VMM. */
export const SerialLog = ({ instance }: { instance: Instance }) => {
  const { text, problem } = useLog(instance);
  const box = useRef<HTMLPreElement>(null);
  useEffect(() => {
    const { current } = box;
    // It stays at the end unless somebody has scrolled up to read.
    if (current && current.scrollHeight - current.scrollTop - current.clientHeight < 100) current.scrollTop = current.scrollHeight;
  }, [text]);
  return (
    <Card>
      <CardTitle component="h2">Serial port, read only</CardTitle>
      <CardBody>
        {problem && <Alert component="h3" isInline variant="info" title={problem} />}
        <pre ref={box} className="serial" tabIndex={0} role="log" aria-live="off" aria-label={`Serial port of ${instance.metadata.name}`}>
          {text ?? ''}
        </pre>
      </CardBody>
    </Card>
  );
};
