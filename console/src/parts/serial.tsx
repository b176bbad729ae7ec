import { Alert, Card, CardBody, CardTitle } from '@patternfly/react-core';
import { useCallback, useEffect, useRef } from 'react';
import { useFleet } from '../api/fleet';
import type { Instance } from '../api/objects';
import { type How, type Polled, usePolled } from '../api/polled';
import { instances } from '../api/resources';

const HOW: How<string> = { every: 1000 };

/** The end of what the guest writes to its serial port, read again every second. */
const useLog = (instance: Instance): Polled<string> => {
  const fleet = useFleet();
  const { namespace = '', name } = instance.metadata;
  const read = useCallback(async (signal: AbortSignal) => (await fleet.kept(instances, { metadata: { namespace, name } }, 'log', signal)).text(), [fleet, namespace, name]);
  return usePolled(read, HOW);
};

/** The serial port of a machine, to be read. It follows the machine when it moves: the log begins anew with each VMM. */
export const SerialLog = ({ instance }: { instance: Instance }) => {
  const { value: text = '', problem } = useLog(instance);
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
          {text}
        </pre>
      </CardBody>
    </Card>
  );
};
