import { Card, CardBody, CardTitle, PageSection } from '@patternfly/react-core';
import { Table, Tbody, Td, Th, Thead, Tr } from '@patternfly/react-table';
import { useMemo } from 'react';
import { useParams } from 'react-router';
import { useAll, useCopy, useFleet, useOne } from '../api/fleet';
import type { Condition, Instance } from '../api/objects';
import { drains, instances, migrations, nodes } from '../api/resources';
import { memory, memoryText, quantity, rate } from '../lib/units';
import { drainsOf } from '../model/drain';
import { stateOf } from '../model/migration';
import { loads, readiness, usesOf } from '../model/node';
import { Facts } from '../parts/facts';
import { Labels, Status } from '../parts/labels';
import { DrainLink, MachineLink } from '../parts/links';
import type { Column } from '../parts/list-row';
import { ListTable } from '../parts/list-table';
import { MigrationTable } from '../parts/migration-table';
import { NodeActions } from '../parts/node-actions';
import { View } from '../parts/page';
import { Missing } from '../parts/states';
import { Time } from '../parts/time';

const columns: Column<Instance>[] = [
  { name: 'Name', value: ({ metadata }) => metadata.name, cell: ({ metadata }) => <MachineLink namespace={metadata.namespace} name={metadata.name} /> },
  { name: 'Namespace', value: ({ metadata }) => metadata.namespace, cell: ({ metadata }) => metadata.namespace },
  { name: 'Status', value: ({ status }) => status?.phase, cell: ({ status }) => <Status text={status?.phase ?? 'Unknown'} /> },
  { name: 'CPU', value: ({ spec }) => spec?.domain?.cpu?.cores ?? 1, cell: ({ spec }) => spec?.domain?.cpu?.cores ?? 1 },
  { name: 'Memory', value: ({ spec }) => quantity(spec?.domain?.memory?.guest), cell: ({ spec }) => memoryText(spec?.domain?.memory?.guest) },
  { name: 'VMM', value: ({ status }) => status?.vmm, cell: ({ status }) => <span className="words">{status?.vmm ?? '–'}</span> },
];

const Conditions = ({ conditions }: { conditions: readonly Condition[] }) => (
  <Card>
    <CardTitle component="h2">Conditions</CardTitle>
    <Table aria-label="Conditions" variant="compact" gridBreakPoint="grid-md">
      <Thead>
        <Tr>
          <Th>Type</Th>
          <Th>Status</Th>
          <Th>Reason</Th>
          <Th>Message</Th>
        </Tr>
      </Thead>
      <Tbody>
        {conditions.map(({ type, status, reason, message }) => (
          <Tr key={type}>
            <Td dataLabel="Type">{type}</Td>
            <Td dataLabel="Status">{status}</Td>
            <Td dataLabel="Reason">{reason ?? '–'}</Td>
            <Td dataLabel="Message" className="words">{message ?? '–'}</Td>
          </Tr>
        ))}
      </Tbody>
    </Table>
  </Card>
);

/** A node: what it has, what is on it, and what comes and goes. */
export const NodePage = () => {
  const { name = '' } = useParams();
  const { rateOf } = useFleet();
  const copy = useCopy(nodes);
  const node = useOne(nodes, '', name);
  const runs = useAll(instances);
  const moves = useAll(migrations);
  const going = drainsOf(useAll(drains), name);
  const here = useMemo(() => runs.filter(({ status }) => status?.nodeName === name && status.phase !== 'Succeeded' && status.phase !== 'Failed'), [runs, name]);
  const own = useMemo(
    () =>
      moves.filter((migration) => {
        const { sourceNode, targetNode } = stateOf(migration);
        return sourceNode === name || targetNode === name;
      }),
    [moves, name],
  );
  const load = useMemo(() => (node ? loads([node], usesOf(here), own, rateOf)[0] : undefined), [node, here, own, rateOf]);
  if (!node || !load) {
    return (
      <View title={name} parent={['/nodes', 'Nodes']}>
        <PageSection aria-label="Missing">
          <Missing copy={copy} what={`node ${name}`} />
        </PageSection>
      </View>
    );
  }
  const { status } = node;
  const badges = (
    <>
      <Status text={readiness(node)} /> {node.spec?.unschedulable && <Status text="Cordoned" />}
    </>
  );
  return (
    <View title={name} badge={badges} parent={['/nodes', 'Nodes']} actions={<NodeActions node={node} drain={going[0]} />}>
      <PageSection aria-label="Node">
        <Card>
          <CardTitle component="h2">Details</CardTitle>
          <CardBody>
            <Facts
              facts={[
                ['CPU', load.cpus],
                ['Memory used', `${memory(load.used)} of ${memory(load.allocatable)}`],
                ['Migrations out', `${load.out}, ${rate(load.rateOut)}`],
                ['Migrations in', `${load.in}, ${rate(load.rateIn)}`],
                ['Address', status?.addresses?.[0]?.address],
                ['Version', status?.nodeInfo?.kubeletVersion],
                ['Kernel', status?.nodeInfo?.kernelVersion],
                ['Created', <Time key="created" at={node.metadata.creationTimestamp} />],
                ['Drain', going[0] && <DrainLink key="drain" name={going[0].metadata.name} />],
                ['Labels', <Labels key="labels" labels={node.metadata.labels} />],
              ]}
            />
          </CardBody>
        </Card>
        <Conditions conditions={status?.conditions ?? []} />
        <Card>
          <CardTitle component="h2">Machines</CardTitle>
          <ListTable label="Machines of the node" rows={here} keyOf={({ metadata }) => metadata.uid ?? `${metadata.namespace ?? ''}/${metadata.name}`} columns={columns} sort={['Name', 'asc']} empty="Nothing runs here." />
        </Card>
        <MigrationTable migrations={own} />
      </PageSection>
    </View>
  );
};
