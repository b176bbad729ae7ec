import { Alert, Card, CardBody, CardTitle, PageSection, Progress } from '@patternfly/react-core';
import { Table, Tbody, Td, Th, Thead, Tr } from '@patternfly/react-table';
import type { ReactNode } from 'react';
import { useParams } from 'react-router';
import { useAll, useCopy, useOne } from '../api/fleet';
import type { Drain } from '../api/objects';
import { drains, migrations, nodes } from '../api/resources';
import { plural } from '../lib/units';
import { drainPercent, drainPhaseOf, drainStory, isDrainOver, secondsText } from '../model/drain';
import { Cordon } from '../parts/cordon';
import { DrainActions } from '../parts/drain-actions';
import { BlockedTable, StepTable } from '../parts/drain-tables';
import { Facts } from '../parts/facts';
import { Status } from '../parts/labels';
import { MigrationTable } from '../parts/migration-table';
import { View } from '../parts/page';
import { Missing } from '../parts/states';
import { Time, Until } from '../parts/time';

const Now = ({ drain }: { drain: Drain }) => {
  const { machines = 0, moved = 0, moving = 0, left = 0, blocked = 0, concurrency = 0, etaSeconds, startTimestamp, endTimestamp, deadlineTimestamp } = drain.status ?? {};
  const isOver = isDrainOver(drain);
  return (
    <Card>
      <CardTitle component="h2">{isOver ? 'What came of it' : 'Now'}</CardTitle>
      <CardBody>
        <Progress size="sm" value={drainPercent(drain)} aria-label={`Progress of ${drain.metadata.name}`} />
        <Facts
          columns={3}
          facts={[
            ['Moved', String(moved)],
            ['Left', String(left)],
            // What its owner wants ended instead, and what somebody ended meanwhile.
            ['Ended', String(Math.max(0, machines - moved - left))],
            ['Cannot move', String(blocked)],
            ...(isOver
              ? ([['Over', <Time key="end" at={endTimestamp} />]] as [string, ReactNode][])
              : ([
                  ['Moving', `${moving}, at most ${concurrency} at a time`],
                  ['Over in about', etaSeconds === undefined ? 'Not known' : secondsText(etaSeconds)],
                  ['Given up', deadlineTimestamp ? <Until key="deadline" at={deadlineTimestamp} /> : 'Never'],
                ] as [string, ReactNode][])),
            ['Begun', <Time key="start" at={startTimestamp} />],
            ['Nodes that stay', String(drain.spec?.minAvailable ?? 1)],
          ]}
        />
      </CardBody>
    </Card>
  );
};

const NodesCard = ({ drain }: { drain: Drain }) => {
  const known = new Map(useAll(nodes).map((node) => [node.metadata.name, node]));
  const told = new Map(drain.status?.nodes?.map((node) => [node.name, node]));
  return (
    <Card>
      <CardTitle component="h2">Nodes, in order</CardTitle>
      <Table aria-label="Nodes of the drain" variant="compact" gridBreakPoint="grid-md">
        <Thead>
          <Tr>
            <Th>Node</Th>
            <Th>Status</Th>
            <Th>Moved</Th>
            <Th>Left</Th>
            <Th>What is said</Th>
            <Th screenReaderText="Actions" />
          </Tr>
        </Thead>
        <Tbody>
          {(drain.spec?.nodes ?? []).map((name) => {
            const { phase = 'Waiting', moved = 0, left = 0, message } = told.get(name) ?? {};
            const node = known.get(name);
            return (
              <Tr key={name}>
                <Td dataLabel="Node">{name}</Td>
                <Td dataLabel="Status">
                  <Status text={phase} /> {node?.spec?.unschedulable && <Status text="Cordoned" />}
                </Td>
                <Td dataLabel="Moved">{moved}</Td>
                <Td dataLabel="Left">{left}</Td>
                <Td dataLabel="What is said" className="words">
                  {message ?? (node ? '–' : 'There is no such node.')}
                </Td>
                <Td isActionCell>{node && <Cordon node={node} drainedBy={!isDrainOver(drain) && phase === 'Draining' ? drain.metadata.name : undefined} />}</Td>
              </Tr>
            );
          })}
        </Tbody>
      </Table>
    </Card>
  );
};

const LABEL = 'whimbrel.dev/drain-uid';

/** A drain: live while it goes on, and its record afterwards. */
export const DrainPage = () => {
  const { name = '' } = useParams();
  const copy = useCopy(drains);
  const drain = useOne(drains, '', name);
  const own = useAll(migrations).filter(({ metadata }) => drain?.metadata.uid !== undefined && metadata.labels?.[LABEL] === drain.metadata.uid);
  if (!drain) {
    return (
      <View title={name} parent={['/nodes', 'Nodes']}>
        <PageSection aria-label="Missing">
          <Missing copy={copy} what={`NodeDrain ${name}`} />
        </PageSection>
      </View>
    );
  }
  const { blocked = 0, blockedMachines = [], upcoming = [] } = drain.status ?? {};
  const phase = drainPhaseOf(drain);
  const story = drainStory(drain);
  return (
    <View title={name} badge={<Status text={phase} />} parent={['/nodes', 'Nodes']} actions={<DrainActions drain={drain} />}>
      <PageSection aria-label="Drain">
        {story && (
          <Alert component="h2" isInline variant={phase === 'Succeeded' ? 'success' : phase === 'Failed' ? 'danger' : 'info'} title={phase === 'Succeeded' ? `${(drain.spec?.nodes ?? []).join(', ')} can be worked on` : phase === 'Failed' ? 'It was given up' : 'What is said'}>
            <span className="words">{story}</span>
          </Alert>
        )}
        <Now drain={drain} />
        <NodesCard drain={drain} />
        {blocked > 0 && (
          <Card>
            <CardTitle component="h2">{plural(blocked, 'machine')} cannot move as things are</CardTitle>
            <CardBody>
              <BlockedTable blocked={blockedMachines} count={blocked} />
            </CardBody>
          </Card>
        )}
        {!isDrainOver(drain) && upcoming.length > 0 && (
          <Card>
            <CardTitle component="h2">What comes next</CardTitle>
            <CardBody>
              <StepTable label="Next moves" steps={upcoming} />
            </CardBody>
          </Card>
        )}
        {own.length > 0 && <MigrationTable migrations={own} />}
      </PageSection>
    </View>
  );
};
