import { Alert, Card, CardBody, CardTitle, PageSection, Tab, TabContentBody, Tabs, TabTitleText } from '@patternfly/react-core';
import { Link, useNavigate, useParams } from 'react-router';
import { useAll, useCopy, useFleet, useOne } from '../api/fleet';
import type { Migration } from '../api/objects';
import { instances, machines, migrations } from '../api/resources';
import { memoryText } from '../lib/units';
import { notMigratable, type Row, specOf, statusOf } from '../model/machine';
import { createdAt, isActive, phaseOf, stateOf } from '../model/migration';
import { Bar } from '../parts/bar';
import { EventList } from '../parts/event-list';
import { Facts } from '../parts/facts';
import { Labels, Status } from '../parts/labels';
import { machinePath, MigrationLink, migrationPath } from '../parts/links';
import { MachineActions } from '../parts/machine-actions';
import { MigrationTable } from '../parts/migration-table';
import { View } from '../parts/page';
import { SerialLog } from '../parts/serial';
import { Missing } from '../parts/states';
import { Time } from '../parts/time';
import { YamlEditor } from '../parts/yaml';

/** What the last migration changed is marked: the node and the VMM, and nothing else. */
const Changed = ({ text, before }: { text: string | undefined; before: string | undefined }) => {
  if (!text || !before || before === text) return <>{text ?? '–'}</>;
  return (
    <>
      <mark className="changed">{text}</mark> (before the last migration: {before})
    </>
  );
};

const General = ({ row, last }: { row: Row; last: Migration | undefined }) => {
  const { machine, instance } = row;
  const { nodeName, vmm } = instance?.status ?? {};
  const state = last && phaseOf(last) === 'Succeeded' ? stateOf(last) : {};
  // An older run, or a restart since: then the migration says nothing about what runs now.
  const isOfThis = state.targetVmm !== undefined && state.targetVmm === vmm;
  return (
    <Card>
      <CardTitle component="h2">General</CardTitle>
      <CardBody>
        <Facts
          facts={[
            ['Name', machine.metadata.name],
            ['Namespace', machine.metadata.namespace],
            ['Status', <Status key="status" text={statusOf(machine)} />],
            ['Created', <Time key="created" at={machine.metadata.creationTimestamp} />],
            ['Node', <Changed key="node" text={nodeName} before={isOfThis ? state.sourceNode : undefined} />],
            ['VirtualMachineInstance', instance?.metadata.name],
            ['VMM', <Changed key="vmm" text={vmm} before={isOfThis ? state.sourceVmm : undefined} />],
            ['Owner', 'No owner'],
          ]}
        />
      </CardBody>
    </Card>
  );
};

const Details = ({ row }: { row: Row }) => {
  const domain = specOf(row)?.domain;
  const why = notMigratable(row.instance);
  return (
    <Card>
      <CardTitle component="h2">Details</CardTitle>
      <CardBody>
        <Facts
          facts={[
            ['CPU', domain?.cpu?.cores ?? 1],
            ['Memory', memoryText(domain?.memory?.guest)],
            ['Run strategy', row.machine.spec?.runStrategy],
            ['Boots', domain?.firmware?.kernelBoot?.container?.image ?? 'Kernel of the nodes'],
            ['Kernel arguments', domain?.firmware?.kernelBoot?.kernelArgs],
            ['Live migratable', why ? `No: ${why}` : row.instance ? 'Yes' : 'It does not run'],
            ['Labels', <Labels key="labels" labels={row.machine.spec?.template?.metadata?.labels} />],
            ['Why it ended', row.instance?.status?.reason],
          ]}
        />
      </CardBody>
    </Card>
  );
};

const Attention = ({ row, last }: { row: Row; last: Migration | undefined }) => {
  if (row.migration) {
    return (
      <Alert component="h2" isInline variant="info" title="It is being migrated" actionLinks={<Link to={migrationPath(row.migration)}>Live view</Link>}>
        <Bar migration={row.migration} />
      </Alert>
    );
  }
  const { failure, failureReason } = last ? stateOf(last) : {};
  if (!last || phaseOf(last) !== 'Failed') return null;
  return (
    <Alert component="h2" isInline variant={failure?.reason === 'Cancelled' ? 'info' : 'warning'} title={failure?.reason === 'Cancelled' ? 'The last migration was cancelled' : 'The last migration failed'}>
      <p className="words clamp">{failureReason}</p>
      {failure?.advice && <p className="words">{failure.advice}</p>}
      <MigrationLink migration={last} />
    </Alert>
  );
};

const tabs = ['overview', 'console', 'yaml', 'events', 'migrations'] as const;
const tabNames: Record<(typeof tabs)[number], string> = { overview: 'Overview', console: 'Console', yaml: 'YAML', events: 'Events', migrations: 'Migrations' };

export const MachinePage = () => {
  const { namespace = '', name = '', tab = 'overview' } = useParams();
  const { rights } = useFleet();
  const navigate = useNavigate();
  const copy = useCopy(machines);
  const machine = useOne(machines, namespace, name);
  const instance = useOne(instances, namespace, name);
  const own = useAll(migrations)
    .filter(({ metadata, spec }) => metadata.namespace === namespace && spec?.vmiName === name)
    .sort((one, other) => createdAt(other) - createdAt(one));
  if (!machine) {
    return (
      <View title={name} parent={['/machines', 'VirtualMachines']}>
        <PageSection aria-label="Missing">
          <Missing copy={copy} what={`VirtualMachine ${namespace}/${name}`} />
        </PageSection>
      </View>
    );
  }
  const row: Row = { key: `${namespace}/${name}`, machine, instance, migration: own.find(isActive) };
  return (
    <View title={name} badge={<Status text={statusOf(machine)} />} parent={['/machines', 'VirtualMachines']} actions={<MachineActions row={row} />}>
      <PageSection aria-label="Machine">
        <Tabs activeKey={tab} onSelect={(_, key) => void navigate(`${machinePath(namespace, name)}/${key}`)} aria-label="Parts of the machine">
          {tabs.map((key) => (
            <Tab key={key} eventKey={key} title={<TabTitleText>{tabNames[key]}</TabTitleText>}>
              {tab === key && (
                <TabContentBody className="tabs-body">
                  {key === 'overview' && (
                    <>
                      <Attention row={row} last={own[0]} />
                      <General row={row} last={own.find((one) => !isActive(one))} />
                      <Details row={row} />
                    </>
                  )}
                  {key === 'console' && (instance ? <SerialLog key={instance.status?.vmm} instance={instance} /> : 'It does not run.')}
                  {key === 'yaml' && <YamlEditor key={machine.metadata.uid} resource={machines} object={machine} mayEdit={rights.operate} />}
                  {key === 'events' && <EventList namespace={namespace} name={name} />}
                  {key === 'migrations' && <MigrationTable migrations={own} isOfOne />}
                </TabContentBody>
              )}
            </Tab>
          ))}
        </Tabs>
      </PageSection>
    </View>
  );
};
