import { Button, Card, CardBody, CardTitle, FormSelect, FormSelectOption, Grid, GridItem, PageSection, TextInput } from '@patternfly/react-core';
import { Table, Tbody, Td, Th, Thead, Tr } from '@patternfly/react-table';
import { useState } from 'react';
import { useCopy, useFleet, useOne } from '../api/fleet';
import type { Migration } from '../api/objects';
import { fleets, migrations, nodes } from '../api/resources';
import { useRemembered } from '../lib/remember';
import { rate } from '../lib/units';
import { count, type Limits, outcomeOf, type Outcome, ranges, use, within } from '../model/migration';
import { Donut } from '../parts/donut';
import { MigrationTable } from '../parts/migration-table';
import { View } from '../parts/page';
import { States } from '../parts/states';
import { useTell } from '../parts/tell';
import { useNow } from '../parts/time';

const isRange = (value: unknown): value is number => ranges.some(([, minutes]) => minutes === value);

const settingNames: [keyof Limits, string, string][] = [
  ['cluster', 'In the fleet', 'parallelMigrationsPerCluster'],
  ['outbound', 'From a node', 'parallelOutboundMigrationsPerNode'],
  ['inbound', 'To a node', 'parallelInboundMigrationsPerNode'],
];

/** How many migrations at a time, and how many there are now. Administrators change it here. */
const LimitsCard = ({ all }: { all: Migration[] }) => {
  const fleet = useFleet();
  const { attempt } = useTell();
  const settings = useOne(fleets, '', 'fleet');
  const set = settings?.spec?.configuration?.migrations;
  const limits: Limits = {
    cluster: set?.parallelMigrationsPerCluster ?? 5,
    outbound: set?.parallelOutboundMigrationsPerNode ?? 2,
    inbound: set?.parallelInboundMigrationsPerNode ?? 2,
  };
  const [typed, setTyped] = useState<Partial<Record<keyof Limits, string>>>({});
  const now = use(all, fleet.rateOf);
  const most = (map: Map<string, number>) => [...map].sort(([, one], [, other]) => other - one)[0];
  const [outbound, inbound] = [most(now.outbound), most(now.inbound)];
  const uses: Record<keyof Limits, string> = {
    cluster: String(now.all),
    outbound: outbound ? `${outbound[1]} (${outbound[0]})` : '0',
    inbound: inbound ? `${inbound[1]} (${inbound[0]})` : '0',
  };
  const isWrong = Object.values(typed).some((text) => !/^\d{1,5}$/.test(text));
  const save = () =>
    attempt('The limits were saved', 'The limits were not saved', async () => {
      const changed = Object.fromEntries(settingNames.filter(([key]) => typed[key] !== undefined).map(([key, , field]) => [field, Number(typed[key])]));
      const spec = { configuration: { migrations: changed } };
      if (settings) await fleet.patch(fleets, settings, { spec });
      else await fleet.create(fleets, { metadata: { name: 'fleet' }, spec });
      setTyped({});
    });
  return (
    <Card isFullHeight>
      <CardTitle component="h2">Migrations at a time</CardTitle>
      <CardBody>
        <Table aria-label="Limits of migrations at a time" variant="compact" borders={false} gridBreakPoint="">
          <Thead>
            <Tr>
              <Th>Where</Th>
              <Th>Now</Th>
              <Th>At most</Th>
            </Tr>
          </Thead>
          <Tbody>
            {settingNames.map(([key, name]) => (
              <Tr key={key}>
                <Td>{name}</Td>
                <Td className="numeric">{uses[key]}</Td>
                <Td>
                  {fleet.rights.administer ? (
                    <TextInput
                      aria-label={`Migrations at a time: ${name}`}
                      inputMode="numeric"
                      value={typed[key] ?? String(limits[key])}
                      validated={typed[key] !== undefined && !/^\d{1,5}$/.test(typed[key]) ? 'error' : 'default'}
                      onChange={(_, text) => setTyped({ ...typed, [key]: text })}
                    />
                  ) : (
                    limits[key]
                  )}
                </Td>
              </Tr>
            ))}
          </Tbody>
        </Table>
        {fleet.rights.administer && (
          <Button variant="secondary" size="sm" isDisabled={isWrong || Object.keys(typed).length === 0} onClick={() => void save()}>
            Save limits
          </Button>
        )}
      </CardBody>
    </Card>
  );
};

/** Bytes each second on the wire, now. It is a rate: when nothing moves, it is 0. */
const BandwidthCard = ({ all }: { all: Migration[] }) => {
  const names = [...useCopy(nodes).objects.values()].map(({ metadata }) => metadata.name).sort();
  const now = use(all, useFleet().rateOf);
  return (
    <Card isFullHeight>
      <CardTitle component="h2">Bandwidth now</CardTitle>
      <CardBody>
        <Table aria-label="Bandwidth of migrations now" variant="compact" borders={false} gridBreakPoint="">
          <Thead>
            <Tr>
              <Th>From node</Th>
              <Th>Rate</Th>
            </Tr>
          </Thead>
          <Tbody>
            {names.slice(0, 10).map((name) => (
              <Tr key={name}>
                <Td>{name}</Td>
                <Td className="numeric">{rate(now.rates.get(name) ?? 0)}</Td>
              </Tr>
            ))}
            <Tr>
              <Td>In all</Td>
              <Td className="numeric">{rate(now.rate)}</Td>
            </Tr>
          </Tbody>
        </Table>
      </CardBody>
    </Card>
  );
};

export const MigrationsPage = () => {
  const copy = useCopy(migrations);
  const now = useNow(5000);
  const [minutes, setMinutes] = useRemembered('migrations.range', 1440, isRange);
  const [chosen, setChosen] = useState<Outcome>();
  const all = [...copy.objects.values()];
  const recent = within(all, minutes, now);
  const shown = chosen ? recent.filter((migration) => outcomeOf(migration) === chosen) : recent;
  const range = (
    <FormSelect aria-label="Time range" value={minutes} onChange={(_, value) => setMinutes(Number(value))}>
      {ranges.map(([name, value]) => (
        <FormSelectOption key={value} value={value} label={`Last ${name}`} />
      ))}
    </FormSelect>
  );
  return (
    <View title="Migrations" actions={range}>
      <PageSection aria-label="Summary">
        <Grid hasGutter>
          <GridItem lg={4}>
            <Card isFullHeight>
              <CardTitle component="h2">By status</CardTitle>
              <CardBody>
                <Donut counts={count(recent)} chosen={chosen} onChoose={setChosen} />
              </CardBody>
            </Card>
          </GridItem>
          <GridItem lg={4}>
            <LimitsCard all={all} />
          </GridItem>
          <GridItem lg={4}>
            <BandwidthCard all={all} />
          </GridItem>
        </Grid>
      </PageSection>
      <PageSection aria-label="List of migrations">
        <States copy={copy} isEmpty={all.length === 0} empty="There are no migrations" hint="Migrate a VirtualMachine from its page: Actions → Migration → Compute.">
          <MigrationTable migrations={shown} />
        </States>
      </PageSection>
    </View>
  );
};
