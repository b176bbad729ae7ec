import { Button, Card, PageSection } from '@patternfly/react-core';
import { useMemo, useState } from 'react';
import { useAll, useCopy, useFleet } from '../api/fleet';
import type { Node } from '../api/objects';
import { instances, migrations, nodes } from '../api/resources';
import { memory, rate } from '../lib/units';
import { type Load, loads, readiness } from '../model/node';
import { Confirm } from '../parts/confirm';
import { Status } from '../parts/labels';
import { type Column, ListTable } from '../parts/list-table';
import { View } from '../parts/page';
import { States } from '../parts/states';
import { useTell } from '../parts/tell';
import { Time } from '../parts/time';

const columns: Column<Load>[] = [
  { name: 'Name', value: ({ node }) => node.metadata.name, cell: ({ node }) => node.metadata.name },
  {
    name: 'Status',
    value: ({ node }) => readiness(node),
    cell: ({ node }) => (
      <>
        <Status text={readiness(node)} /> {node.spec?.unschedulable && <Status text="Cordoned" />}
      </>
    ),
  },
  { name: 'Machines', value: ({ machines }) => machines, cell: ({ machines }) => machines },
  { name: 'CPU', value: ({ cpus }) => cpus, cell: ({ cpus }) => cpus },
  {
    name: 'Memory used',
    value: ({ used }) => used,
    cell: ({ used, allocatable }) => <span className="numeric">{`${memory(used)} of ${memory(allocatable)}`}</span>,
  },
  { name: 'Migrations out', value: ({ out }) => out, cell: ({ out, rateOut }) => <span className="numeric">{`${out}, ${rate(rateOut)}`}</span> },
  { name: 'Migrations in', value: ({ in: coming }) => coming, cell: ({ in: coming, rateIn }) => <span className="numeric">{`${coming}, ${rate(rateIn)}`}</span> },
  { name: 'Address', cell: ({ node }) => node.status?.addresses?.[0]?.address ?? '–' },
  { name: 'Version', cell: ({ node }) => node.status?.nodeInfo?.kubeletVersion ?? '–' },
  { name: 'Created', value: ({ node }) => node.metadata.creationTimestamp, cell: ({ node }) => <Time at={node.metadata.creationTimestamp} /> },
];

const Cordon = ({ node }: { node: Node }) => {
  const fleet = useFleet();
  const { attempt } = useTell();
  const [isOpen, setOpen] = useState(false);
  const { name } = node.metadata;
  const set = (unschedulable: boolean) =>
    attempt(`${name} ${unschedulable ? 'takes nothing new' : 'takes machines again'}`, `${name} was not changed`, () =>
      fleet.patch(nodes, node, { spec: { unschedulable: unschedulable || null } }),
    );
  if (node.spec?.unschedulable) {
    return (
      <Button variant="secondary" size="sm" onClick={() => void set(false)}>
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

export const NodesPage = () => {
  const { rights, rateOf } = useFleet();
  const copy = useCopy(nodes);
  const runs = useAll(instances);
  const moves = useAll(migrations);
  const rows = useMemo(() => loads([...copy.objects.values()], runs, moves, rateOf), [copy.objects, runs, moves, rateOf]);
  return (
    <View title="Nodes">
      <PageSection aria-label="List of nodes">
        <States copy={copy} isEmpty={rows.length === 0} empty="There are no nodes" hint="A host becomes one by `whimbrel node --join ticket`.">
          <Card>
            <ListTable
              label="Nodes"
              rows={rows}
              keyOf={({ node }) => node.metadata.name}
              columns={columns}
              sort={['Name', 'asc']}
              empty=""
              {...(rights.administer ? { actions: ({ node }: Load) => <Cordon node={node} /> } : {})}
            />
          </Card>
        </States>
      </PageSection>
    </View>
  );
};
