import { Progress, ProgressMeasureLocation } from '@patternfly/react-core';
import type { Migration } from '../api/objects';
import { HighWater, isActive, outcomeOf } from '../model/migration';

/** One for all views, so that a bar stands where it stood when a view is opened again. */
const highWater = new HighWater();

/** How much of a migration is done. It never runs backwards. */
export const Bar = ({ migration }: { migration: Migration }) => {
  const value = highWater.of(migration);
  const outcome = outcomeOf(migration);
  const variant = outcome === 'Failed' ? { variant: 'danger' as const } : outcome === 'Succeeded' ? { variant: 'success' as const } : {};
  return (
    <Progress
      className="bar"
      size="sm"
      value={value}
      aria-label={`Progress of ${migration.metadata.name}`}
      measureLocation={isActive(migration) ? ProgressMeasureLocation.outside : ProgressMeasureLocation.none}
      {...variant}
    />
  );
};
