import { Button } from '@patternfly/react-core';
import { useState } from 'react';
import { useFleet } from '../api/fleet';
import type { Migration } from '../api/objects';
import { migrations } from '../api/resources';
import { isActive } from '../model/migration';
import { Confirm } from './confirm';
import { Menu } from './menu';
import { useTell } from './tell';

/** Asks to give a migration up. What came of it is told where the migration is shown: it may be too late. */
export const CancelMigration = ({ migration, isKebab = false }: { migration: Migration; isKebab?: boolean }) => {
  const fleet = useFleet();
  const { attempt } = useTell();
  const [isOpen, setOpen] = useState(false);
  const { name } = migration.metadata;
  const whyNot = !isActive(migration) ? 'It is over.' : migration.spec?.cancel ? 'It is being cancelled already.' : undefined;
  if (!fleet.rights.operate) return null;
  return (
    <>
      {isKebab ? (
        <Menu isKebab label={`Actions of ${name}`} items={[{ name: 'Cancel migration', whyNot, onChoose: () => setOpen(true) }]} />
      ) : (
        isActive(migration) && (
          <Button variant="danger" isDisabled={whyNot !== undefined} onClick={() => setOpen(true)}>
            Cancel migration
          </Button>
        )
      )}
      {isOpen && (
        <Confirm
          title={`Cancel the migration ${name}?`}
          verb="Cancel migration"
          onClose={() => setOpen(false)}
          onConfirm={() =>
            attempt('The engine is asked to give up', 'The migration is not cancelled', () => fleet.patch(migrations, migration, { spec: { cancel: true } }))
          }
        >
          The machine goes on where it is. If it has just moved, it stays where it is then, and this says so.
        </Confirm>
      )}
    </>
  );
};
