import { Button } from '@patternfly/react-core';
import { useState } from 'react';
import { useFleet } from '../api/fleet';
import type { Node } from '../api/objects';
import { nodes } from '../api/resources';
import { Confirm } from './confirm';
import { useTell } from './tell';

/** Cordons a node, or uncordons it. One that is being emptied is not uncordoned: the drain would cordon it again. */
export const Cordon = ({ node, drainedBy }: { node: Node; drainedBy: string | undefined }) => {
  const fleet = useFleet();
  const { attempt } = useTell();
  const [isOpen, setOpen] = useState(false);
  const { name } = node.metadata;
  if (!fleet.rights.administer) return null;
  const set = (unschedulable: boolean) =>
    attempt(`${name} ${unschedulable ? 'takes nothing new' : 'takes machines again'}`, `${name} was not changed`, () =>
      fleet.patch(nodes, node, { spec: { unschedulable: unschedulable || null } }),
    );
  if (node.spec?.unschedulable) {
    return (
      <Button variant="secondary" size="sm" isAriaDisabled={drainedBy !== undefined} {...(drainedBy ? { 'aria-description': `${drainedBy} empties it: cancel that first` } : {})} onClick={() => void set(false)}>
        Uncordon
      </Button>
    );
  }
  return (
    <>
      <Button variant="secondary" size="sm" onClick={() => setOpen(true)}>
        Cordon
      </Button>
      {isOpen && (
        <Confirm title={`Cordon ${name}?`} verb="Cordon" isDanger={false} onClose={() => setOpen(false)} onConfirm={() => set(true)}>
          Nothing new is placed on {name}, and no migration goes there. What runs there goes on.
        </Confirm>
      )}
    </>
  );
};
