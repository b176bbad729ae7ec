import { Button, Card, CardTitle, PageSection, Progress, ToolbarItem } from '@patternfly/react-core';
import { useCallback, useMemo, useState } from 'react';
import { useAll, useCopy, useFleet } from '../api/fleet';
import type { Drain } from '../api/objects';
import { drains, instances, migrations, nodes } from '../api/resources';
import { memory, rate } from '../lib/units';
import { drainPercent, drainPhaseOf, drainsOf, drainStory, isDrainOver, secondsText } from '../model/drain';
import { type Load, loads, readiness, usesOf } from '../model/node';
import { DrainDialog } from '../parts/drain-dialog';
import { Status } from '../parts/labels';
import { DrainLink, NodeLink } from '../parts/links';
import type { Column } from '../parts/list-row';
import { ListTable } from '../parts/list-table';
import { NodeActions } from '../parts/node-actions';
import { View } from '../parts/page';
import { States, worstOf } from '../parts/states';
import { Time } from '../parts/time';

const columns: Column<Load>[] = [
  { name: 'Name', value: ({ node }) => node.metadata.name, cell: ({ node }) => <NodeLink name={node.metadata.name} /> },
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

const drainColumns: Column<Drain>[] = [
  { name: 'Name', value: ({ metadata }) => metadata.name, cell: ({ metadata }) => <DrainLink name={metadata.name} /> },
  { name: 'Status', value: drainPhaseOf, cell: (drain) => <Status text={drainPhaseOf(drain)} /> },
  { name: 'Nodes', cell: ({ spec }) => <span className="words clamp">{(spec?.nodes ?? []).join(', ')}</span> },
  {
    name: 'Progress',
    value: drainPercent,
    cell: (drain) => <Progress className="bar" size="sm" value={drainPercent(drain)} aria-label={`Progress of ${drain.metadata.name}`} />,
  },
  { name: 'Moved', value: ({ status }) => status?.moved, cell: ({ status }) => status?.moved ?? 0 },
  { name: 'Left', value: ({ status }) => status?.left, cell: ({ status }) => status?.left ?? 0 },
  { name: 'Cannot move', value: ({ status }) => status?.blocked, cell: ({ status }) => status?.blocked ?? 0 },
  {
    name: 'Over in about',
    value: ({ status }) => status?.etaSeconds,
    cell: (drain) => (isDrainOver(drain) || drain.status?.etaSeconds === undefined ? '–' : secondsText(drain.status.etaSeconds)),
  },
  { name: 'Created', value: ({ metadata }) => metadata.creationTimestamp, cell: ({ metadata }) => <Time at={metadata.creationTimestamp} /> },
  { name: 'What is said', cell: (drain) => <span className="words clamp said">{drainStory(drain) ?? '–'}</span> },
];

const DrainList = () => {
  const copy = useCopy(drains);
  const all = useAll(drains);
  return (
    <PageSection aria-label="Drains">
      <States copy={copy} isEmpty={all.length === 0} empty="No node was drained lately" hint="Draining a node moves its machines away, so that its host can be worked on.">
        <Card>
          <CardTitle component="h2">Drains</CardTitle>
          <ListTable label="Drains" rows={all} keyOf={({ metadata }) => metadata.name} columns={drainColumns} sort={['Created', 'desc']} empty="" />
        </Card>
      </States>
    </PageSection>
  );
};

export const NodesPage = () => {
  const { rights, rateOf } = useFleet();
  const copy = useCopy(nodes);
  const runs = useAll(instances);
  const moves = useAll(migrations);
  const going = useAll(drains);
  const [chosen, setChosen] = useState<ReadonlySet<string>>(new Set());
  const [draining, setDraining] = useState<string[]>();
  const uses = useMemo(() => usesOf(runs), [runs]);
  const rows = useMemo(() => loads([...copy.objects.values()], uses, moves, rateOf), [copy.objects, uses, moves, rateOf]);
  const toggle = useCallback(
    ({ node: { metadata } }: Load, isOn: boolean) => setChosen((old) => new Set(isOn ? [...old, metadata.name] : [...old].filter((name) => name !== metadata.name))),
    [],
  );
  const toggleAll = (all: readonly Load[], isOn: boolean) => setChosen(new Set(isOn ? all.map(({ node }) => node.metadata.name) : []));
  // In the order of their names; those that have gone meanwhile are left out.
  const picked = rows.map(({ node }) => node.metadata.name).filter((name) => chosen.has(name));
  const actions = useCallback(({ node }: Load) => <NodeActions node={node} drain={drainsOf(going, node.metadata.name)[0]} />, [going]);
  return (
    <View title="Nodes">
      <PageSection aria-label="List of nodes">
        <States copy={worstOf(copy, useCopy(drains))} isEmpty={rows.length === 0} empty="There are no nodes" hint="A host becomes one by `whimbrel node --join ticket`.">
          <Card>
            <ListTable
              label="Nodes"
              rows={rows}
              keyOf={({ node }) => node.metadata.name}
              columns={columns}
              sort={['Name', 'asc']}
              empty=""
              {...(rights.administer
                ? {
                    actions,
                    selection: { has: ({ node }: Load) => chosen.has(node.metadata.name), toggle, toggleAll },
                    toolbar: (
                      <ToolbarItem>
                        <Button variant="secondary" isDisabled={picked.length === 0} onClick={() => setDraining(picked)}>
                          Drain one after the other ({picked.length})
                        </Button>
                      </ToolbarItem>
                    ),
                  }
                : {})}
            />
          </Card>
        </States>
      </PageSection>
      <DrainList />
      {draining && <DrainDialog names={draining} onClose={() => setDraining(undefined)} />}
    </View>
  );
};
