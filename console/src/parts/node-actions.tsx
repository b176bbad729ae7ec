import { Button, Flex } from '@patternfly/react-core';
import { useState } from 'react';
import { useFleet } from '../api/fleet';
import type { Drain, Node } from '../api/objects';
import { Cordon } from './cordon';
import { DrainDialog } from './drain-dialog';
import { DrainLink } from './links';

/** Cordon, uncordon, drain; where it is being drained, the drain. */
export const NodeActions = ({ node, drain }: { node: Node; drain: Drain | undefined }) => {
  const { rights } = useFleet();
  const [isDraining, setDraining] = useState(false);
  const { name } = node.metadata;
  if (!rights.administer) return null;
  return (
    <Flex flexWrap={{ default: 'nowrap' }}>
      <Cordon node={node} drainedBy={drain?.metadata.name} />
      {drain ? (
        <DrainLink name={drain.metadata.name} />
      ) : (
        <Button variant="secondary" size="sm" aria-label={`Drain ${name}`} onClick={() => setDraining(true)}>
          Drain
        </Button>
      )}
      {isDraining && <DrainDialog names={[name]} onClose={() => setDraining(false)} />}
    </Flex>
  );
};
