import { Alert, Card, CardBody, CardTitle, Grid, GridItem, Spinner } from '@patternfly/react-core';
import type { ReactNode } from 'react';
import { useCallback } from 'react';
import { useFleet } from '../api/fleet';
import type { Instance, Migration } from '../api/objects';
import { type How, type Polled, usePolled } from '../api/polled';
import { instances } from '../api/resources';
import type { Usage } from '../api/usage';
import { memory, rate } from '../lib/units';
import { stateOf } from '../model/migration';
import { addLook, cpus, diskRates, type Look, type Rates, ratesOf } from '../model/usage';
import { DiskTable } from './disk-table';
import { Facts } from './facts';
import { Plot } from './plot';

const HOW: How<readonly Look[]> = { every: 2000 };

/** What was counted while this was open, looked at every two seconds. */
const useLooks = (instance: Instance): Polled<readonly Look[]> => {
  const fleet = useFleet();
  const { namespace = '', name } = instance.metadata;
  const look = useCallback(
    async (signal: AbortSignal, before: readonly Look[] = []) => {
      const reply = await fleet.kept(instances, { metadata: { namespace, name } }, 'metrics?dirty=true', signal);
      return addLook(before, { at: fleet.now(), usage: (await reply.json()) as Usage });
    },
    [fleet, namespace, name],
  );
  return usePolled(look, HOW);
};

type Line = [name: string, value: (rates: Rates) => number | undefined];

const Lines = ({ title, lines, rates, unit, none }: { title: string; lines: Line[]; rates: readonly Rates[]; unit: (value: number) => string; none?: string | undefined }) => (
  <GridItem lg={6}>
    <Card isFullHeight>
      <CardTitle component="h2">{title}</CardTitle>
      <CardBody>
        {none ??
          (rates.length === 0 ? (
            'Known in a moment: a rate is between two looks.'
          ) : (
            <Plot title={title} unit={unit} series={lines.map(([name, value]) => ({ name, points: rates.map((one) => ({ at: one.at, value: value(one) ?? 0 })) }))} />
          ))}
      </CardBody>
    </Card>
  </GridItem>
);

const Now = ({ usage, migration }: { usage: Usage; migration: Migration | undefined }) => {
  const { guestBytes, touchedBytes, vmmBytes } = usage.memory;
  const progress = migration && stateOf(migration).progress;
  // While it is migrated the engine counts every page; a sample is all that there is otherwise.
  const counted = progress?.round ? rate(progress.dirtyRate ?? 0) : undefined;
  const seen = usage.dirtyBytesPerSecond;
  // The engine says whole MiB: what is less is not nothing.
  const sampled = seen === undefined ? undefined : seen === 0 ? 'Less than 1 MiB/s, by a sample' : `${rate(seen)}, by a sample`;
  const facts: [string, ReactNode][] = [
    ['vCPUs', String(usage.cpu.vcpus)],
    ['VMM', usage.vmm],
    ['Memory of the guest', guestBytes === undefined ? undefined : memory(guestBytes)],
    ['Of this it has touched', memory(touchedBytes)],
    ['The VMM needs beside it', memory(vmmBytes)],
    ['Dirtied by the guest', counted ?? sampled ?? 'Known in a moment'],
  ];
  return (
    <Card>
      <CardTitle component="h2">Now</CardTitle>
      <CardBody>
        <Facts columns={3} facts={facts} />
      </CardBody>
    </Card>
  );
};

/** What a machine uses: CPU, memory, network, storage, and how fast its guest dirties memory. True rates, from counters of the node. */
export const Metrics = ({ instance, migration }: { instance: Instance; migration: Migration | undefined }) => {
  const { value: looks = [], problem } = useLooks(instance);
  const rates = ratesOf(looks);
  const last = looks.at(-1)?.usage;
  if (!last && !problem) return <Spinner aria-label="Loading" />;
  return (
    <>
      {problem && (
        <Alert component="h2" isInline variant="warning" title={last ? 'There is nothing new; what is shown is old. It is tried again.' : 'There are no figures. It is tried again.'}>
          <span className="words">{problem}</span>
        </Alert>
      )}
      {last && (
        <>
          <Now usage={last} migration={migration} />
          <Grid hasGutter>
            <Lines title="CPU" rates={rates} unit={cpus} lines={[['vCPUs', ({ guestCpus }) => guestCpus], ['Devices and migrations', ({ otherCpus }) => otherCpus]]} />
            <GridItem lg={6}>
              <Card isFullHeight>
                <CardTitle component="h2">Memory</CardTitle>
                <CardBody>
                  <Plot
                    title="Memory of the host"
                    unit={memory}
                    series={[
                      { name: 'Touched by the guest', points: looks.map(({ at, usage }) => ({ at, value: usage.memory.touchedBytes })) },
                      { name: 'VMM', points: looks.map(({ at, usage }) => ({ at, value: usage.memory.vmmBytes })) },
                    ]}
                  />
                </CardBody>
              </Card>
            </GridItem>
            <Lines title="Network" rates={rates} unit={rate} none={last.networks.length === 0 ? 'It has no network card.' : undefined} lines={[['Received', ({ received }) => received], ['Sent', ({ sent }) => sent]]} />
            <Lines title="Storage" rates={rates} unit={rate} none={last.storage ? undefined : 'The host does not count it.'} lines={[['Read', ({ read }) => read], ['Written', ({ written }) => written]]} />
          </Grid>
          {last.disks && last.disks.length > 0 && <DiskTable instance={instance} disks={diskRates(looks)} />}
        </>
      )}
    </>
  );
};
