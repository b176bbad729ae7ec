import { Card } from '@patternfly/react-core';
import { useCopy } from '../api/fleet';
import type { Event } from '../api/objects';
import { events, migrations } from '../api/resources';
import { useAll } from '../api/fleet';
import type { Column } from './list-row';
import { ListTable } from './list-table';
import { States } from './states';
import { Time } from './time';

const columns: Column<Event>[] = [
  { name: 'Last seen', value: ({ lastTimestamp }) => lastTimestamp, cell: ({ lastTimestamp }) => <Time at={lastTimestamp} /> },
  { name: 'Type', value: ({ type }) => type, cell: ({ type }) => type ?? '–' },
  { name: 'Reason', value: ({ reason }) => reason, cell: ({ reason }) => reason ?? '–' },
  { name: 'About', value: ({ involvedObject }) => involvedObject?.kind, cell: ({ involvedObject }) => involvedObject?.kind ?? '–' },
  { name: 'Message', cell: ({ message }) => <span className="words clamp">{message}</span> },
  { name: 'Times', value: ({ count }) => count, cell: ({ count }) => count ?? 1 },
];

/** What happened to a machine, its run and its migrations. Events go an hour after they last happened. */
export const EventList = ({ namespace, name }: { namespace: string; name: string }) => {
  const copy = useCopy(events);
  const moves = new Set(
    useAll(migrations)
      .filter(({ metadata, spec }) => metadata.namespace === namespace && spec?.vmiName === name)
      .map(({ metadata }) => metadata.name),
  );
  const own = [...copy.objects.values()].filter(({ metadata, involvedObject: about }) => {
    if (metadata.namespace !== namespace) return false;
    return about?.kind === 'VirtualMachineInstanceMigration' ? moves.has(about.name ?? '') : about?.name === name;
  });
  return (
    <States copy={copy} isEmpty={own.length === 0} empty="Nothing has happened lately" hint="Events go an hour after they last happened.">
      <Card>
        <ListTable label="Events" rows={own} keyOf={({ metadata }) => metadata.name} columns={columns} sort={['Last seen', 'desc']} empty="" />
      </Card>
    </States>
  );
};
