import { Button, Flex } from '@patternfly/react-core';
import { useState } from 'react';
import { useFleet } from '../api/fleet';
import type { Drain } from '../api/objects';
import { drains } from '../api/resources';
import { type DrainAction, drainActionNames, drainPatches, isDrainOver, whyNotDrain } from '../model/drain';
import { Confirm } from './confirm';
import { useTell } from './tell';

const done: Record<DrainAction, string> = { stop: 'begins nothing more', resume: 'goes on', cancel: 'is given up' };

/** Stop, resume, cancel: what can be done with a drain that goes on. */
export const DrainActions = ({ drain }: { drain: Drain }) => {
  const fleet = useFleet();
  const { attempt } = useTell();
  const [isCancelling, setCancelling] = useState(false);
  const { name } = drain.metadata;
  if (!fleet.rights.administer || isDrainOver(drain)) return null;
  const act = (action: DrainAction) => attempt(`${name} ${done[action]}`, `${name} was not changed`, () => fleet.patch(drains, drain, drainPatches[action]));
  const halt: DrainAction = drain.spec?.paused ? 'resume' : 'stop';
  return (
    <Flex>
      <Button variant="secondary" isDisabled={whyNotDrain(halt, drain) !== undefined} onClick={() => void act(halt)}>
        {drainActionNames[halt]}
      </Button>
      <Button variant="danger" isDisabled={whyNotDrain('cancel', drain) !== undefined} onClick={() => setCancelling(true)}>
        {drainActionNames.cancel}
      </Button>
      {isCancelling && (
        <Confirm title={`Cancel the drain ${name}?`} verb={drainActionNames.cancel} onClose={() => setCancelling(false)} onConfirm={() => act('cancel')}>
          Migrations under way are brought to their end, others are given up. Nodes that are not empty and that it cordoned are schedulable again; empty ones stay cordoned.
        </Confirm>
      )}
    </Flex>
  );
};
