import { Alert, Button, Card, CardBody, CardTitle, EmptyState, PageSection, Spinner, Tab, TabContentBody, Tabs, TabTitleText } from '@patternfly/react-core';
import { lazy, type ReactNode, Suspense, useState } from 'react';
import { useNavigate, useParams } from 'react-router';
import { useAll, useCopy, useFleet, useOne } from '../api/fleet';
import type { Instance, Migration } from '../api/objects';
import { instances, machines, migrations } from '../api/resources';
import { memoryText } from '../lib/units';
import { notMigratable, type Row, specOf, statusOf } from '../model/machine';
import { createdAt, isActive, phaseOf, stateOf } from '../model/migration';
import { Bar } from '../parts/bar';
import { EventList } from '../parts/event-list';
import { Facts } from '../parts/facts';
import { Labels, Status } from '../parts/labels';
import { machinePath, MigrationLink, NodeLink } from '../parts/links';
import { MachineActions } from '../parts/machine-actions';
import { Metrics } from '../parts/metrics';
import { MigrationDrawer } from '../parts/migration-drawer';
import { MigrationTable } from '../parts/migration-table';
import { View } from '../parts/page';
import { SerialLog } from '../parts/serial';
import { Missing } from '../parts/states';
import { Time } from '../parts/time';
import { YamlEditor } from '../parts/yaml';

/** What the last migration changed is marked: the node and the VMM, and nothing else. */
const Changed = ({ text, before, link = text }: { text: string | undefined; before: string | undefined; link?: ReactNode }) => {
  if (!text || !before || before === text) return <>{link ?? '–'}</>;
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
            ['Node', <Changed key="node" text={nodeName} before={isOfThis ? state.sourceNode : undefined} link={<NodeLink name={nodeName} />} />],
            ['VirtualMachineInstance', instance?.metadata.name],
            ['VMM', <Changed key="vmm" text={vmm} before={isOfThis ? state.sourceVmm : undefined} />],
            ['Owner', 'No owner'],
          ]}
        />
      </CardBody>
    </Card>
  );
};

const evictions: Record<string, string> = {
  LiveMigrate: 'It is migrated',
  LiveMigrateIfPossible: 'It is migrated; where it cannot be, its run ends',
  None: 'Its run ends',
  External: 'It waits for whoever is in charge of it',
};
const evictionText = (strategy = 'LiveMigrate'): string => evictions[strategy] ?? strategy;

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
            ['When its node is drained', evictionText(specOf(row)?.evictionStrategy)],
            ['Live migratable', why ? `No: ${why}` : row.instance ? 'Yes' : 'It does not run'],
            ['Labels', <Labels key="labels" labels={row.machine.spec?.template?.metadata?.labels} />],
            ['Why it ended', row.instance?.status?.reason],
          ]}
        />
      </CardBody>
    </Card>
  );
};

const Attention = ({ row, last, onShow }: { row: Row; last: Migration | undefined; onShow: (migration: Migration) => void }) => {
  const { migration } = row;
  if (migration) {
    return (
      <Alert component="h2" isInline variant="info" title="It is being migrated" actionLinks={<Button variant="link" isInline onClick={() => onShow(migration)}>Live view</Button>}>
        <Bar migration={migration} />
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

/** Loaded when it is first wanted: it is a third of all. */
const TerminalView = lazy(() => import('../parts/terminal'));

/** Who may operate machines types into the serial port; anybody else reads what was written there. */
const Console = ({ instance }: { instance: Instance | undefined }) => {
  const { rights } = useFleet();
  if (!instance?.status?.vmm) return <EmptyState titleText="It does not run" headingLevel="h2" />;
  const { namespace = '', name, uid } = instance.metadata;
  if (!rights.operate) return <SerialLog key={instance.status.vmm} instance={instance} />;
  return (
    <Suspense fallback={<Spinner aria-label="Loading" />}>
      <TerminalView key={uid} namespace={namespace} name={name} />
    </Suspense>
  );
};

const tabs = ['overview', 'metrics', 'console', 'yaml', 'events', 'migrations'] as const;
const tabNames: Record<(typeof tabs)[number], string> = { overview: 'Overview', metrics: 'Metrics', console: 'Console', yaml: 'YAML', events: 'Events', migrations: 'Migrations' };

export const MachinePage = () => {
  const { namespace = '', name = '', tab = 'overview' } = useParams();
  const { rights } = useFleet();
  const navigate = useNavigate();
  const copy = useCopy(machines);
  const [shown, setShown] = useState<string>();
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
        <MigrationDrawer migration={own.find(({ metadata }) => shown !== undefined && metadata.uid === shown)} onClose={() => setShown(undefined)}>
          <Tabs activeKey={tab} onSelect={(_, key) => void navigate(`${machinePath(namespace, name)}/${key}`)} aria-label="Parts of the machine">
            {tabs.map((key) => (
              <Tab key={key} eventKey={key} title={<TabTitleText>{tabNames[key]}</TabTitleText>}>
                {tab === key && (
                  <TabContentBody className="tabs-body">
                    {key === 'overview' && (
                      <>
                        <Attention row={row} last={own[0]} onShow={({ metadata }) => setShown(metadata.uid)} />
                        <General row={row} last={own.find((one) => !isActive(one))} />
                        <Details row={row} />
                      </>
                    )}
                    {key === 'metrics' && (instance?.status?.vmm ? <Metrics instance={instance} migration={row.migration} /> : <EmptyState titleText="It does not run" headingLevel="h2" />)}
                    {key === 'console' && <Console instance={instance} />}
                    {key === 'yaml' && <YamlEditor key={machine.metadata.uid} resource={machines} object={machine} mayEdit={rights.operate} />}
                    {key === 'events' && <EventList namespace={namespace} name={name} />}
                    {key === 'migrations' && <MigrationTable migrations={own} isOfOne />}
                  </TabContentBody>
                )}
              </Tab>
            ))}
          </Tabs>
        </MigrationDrawer>
      </PageSection>
    </View>
  );
};
