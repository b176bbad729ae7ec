import { Card, CardBody, CardTitle, Grid, GridItem, List, ListItem, PageSection } from '@patternfly/react-core';
import type { ReactNode } from 'react';
import { Link } from 'react-router';
import { useAll, useCopy, useFleet } from '../api/fleet';
import type { ControlPlane } from '../api/objects';
import { useQuestion } from '../api/question';
import { controlPlanes, drains, instances, machines, migrations, nodes } from '../api/resources';
import { rate } from '../lib/units';
import { type Concern, concerns, concernsOfPlane } from '../model/attention';
import { statusOf } from '../model/machine';
import { count, use, within } from '../model/migration';
import { readiness } from '../model/node';
import { Facts } from '../parts/facts';
import { DrainLink, MachineLink, migrationPath, NodeLink } from '../parts/links';
import { View } from '../parts/page';
import { States, worstOf } from '../parts/states';
import { useNow } from '../parts/time';

const tally = (texts: string[]): [string, number][] => {
  const counts = new Map<string, number>();
  for (const text of texts) counts.set(text, (counts.get(text) ?? 0) + 1);
  return [...counts].sort(([one], [other]) => one.localeCompare(other));
};

const Tile = ({ title, to, children }: { title: string; to: string; children: ReactNode }) => (
  <GridItem md={4}>
    <Card isFullHeight>
      <CardTitle component="h2">
        <Link to={to}>{title}</Link>
      </CardTitle>
      <CardBody>{children}</CardBody>
    </Card>
  </GridItem>
);

const Where = ({ concern: { kind, namespace, name } }: { concern: Concern }) => {
  if (kind === 'machine') return <MachineLink namespace={namespace} name={name} />;
  if (kind === 'drain') return <DrainLink name={name} />;
  if (kind === 'plane') return <strong>{name}</strong>;
  if (kind === 'node') return <NodeLink name={name} />;
  return <Link to={migrationPath({ metadata: { namespace, name } })}>{name}</Link>;
};

/** How often the control plane is asked how it stands itself, in milliseconds. */
const AGAIN = 600_000;
const nothing: [] = [];

export const OverviewPage = () => {
  const { rateOf } = useFleet();
  const now = useNow(10_000);
  const copy = worstOf(useCopy(machines), useCopy(instances), useCopy(migrations), useCopy(nodes), useCopy(drains));
  const all = useAll(machines);
  const runs = useAll(instances);
  const moves = useAll(migrations);
  const hosts = useAll(nodes);
  const { status: plane } = useQuestion<ControlPlane>(controlPlanes, {}, nothing, undefined, Math.floor(now / AGAIN));
  const list = [...concernsOfPlane(plane), ...concerns(all, runs, moves, hosts, useAll(drains), now)];
  return (
    <View title="Overview">
      <PageSection aria-label="Counts">
        <States copy={copy} isEmpty={false} empty="">
          <Grid hasGutter>
            <Tile title="VirtualMachines" to="/machines">
              {all.length === 0 ? 'None yet' : <Facts facts={[['In all', all.length], ...tally(all.map(statusOf))]} />}
            </Tile>
            <Tile title="Migrations, last day" to="/migrations">
              <Facts facts={[...Object.entries(count(within(moves, 1440, now))), ['On the wire', rate(use(moves, rateOf).rate)]]} />
            </Tile>
            <Tile title="Nodes" to="/nodes">
              <Facts facts={[['In all', hosts.length], ...tally(hosts.map(readiness)), ['Cordoned', hosts.filter(({ spec }) => spec?.unschedulable).length]]} />
            </Tile>
            <GridItem>
              <Card>
                <CardTitle component="h2">What needs attention</CardTitle>
                <CardBody>
                  {list.length === 0 && 'Nothing.'}
                  <List isPlain>
                    {list.slice(0, 50).map((concern) => (
                      <ListItem key={concern.key} className="words">
                        <Where concern={concern} />: <span className="clamp">{concern.why}</span>
                      </ListItem>
                    ))}
                    {list.length > 50 && <ListItem>and {list.length - 50} more</ListItem>}
                  </List>
                </CardBody>
              </Card>
            </GridItem>
          </Grid>
        </States>
      </PageSection>
    </View>
  );
};
