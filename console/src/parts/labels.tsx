import { Label, LabelGroup, type LabelProps } from '@patternfly/react-core';
import type { Migration } from '../api/objects';
import { outcomeOf, phaseOf } from '../model/migration';

const tones: Record<string, LabelProps['status']> = {
  Running: 'success',
  Ready: 'success',
  Migrating: 'info',
  Starting: 'info',
  Paused: 'warning',
  Stopping: 'warning',
  Deleting: 'warning',
  Unschedulable: 'danger',
  Failed: 'danger',
  'Not ready': 'danger',
  'No agent': 'warning',
  Draining: 'info',
  Drained: 'success',
  Succeeded: 'success',
  Cancelled: 'warning',
  Cordoned: 'warning',
};

export const Status = ({ text }: { text: string }) => {
  const status = tones[text];
  return (
    <Label isCompact variant="outline" {...(status ? { status } : {})}>
      {text}
    </Label>
  );
};

const outcomeTones: Record<string, LabelProps['status']> = {
  Running: 'info',
  Succeeded: 'success',
  Cancelled: 'warning',
  Failed: 'danger',
};

/** The phase of a migration; a cancelled one is not shown as a failure. */
export const PhaseLabel = ({ migration }: { migration: Migration }) => {
  const outcome = outcomeOf(migration);
  const status = outcomeTones[outcome];
  return (
    <Label isCompact variant="outline" {...(status ? { status } : {})}>
      {outcome === 'Cancelled' ? outcome : phaseOf(migration)}
    </Label>
  );
};

export const Labels = ({ labels }: { labels: Record<string, string> | undefined }) => {
  const all = Object.entries(labels ?? {});
  if (all.length === 0) return <>–</>;
  return (
    <LabelGroup numLabels={3}>
      {all.map(([name, value]) => (
        <Label isCompact key={name}>
          {value ? `${name}=${value}` : name}
        </Label>
      ))}
    </LabelGroup>
  );
};
