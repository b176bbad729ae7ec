import { Card, CardBody, CardTitle, List, ListItem } from '@patternfly/react-core';
import { Table, Tbody, Td, Th, Thead, Tr } from '@patternfly/react-table';
import { useEffect, useState } from 'react';
import { useFleet } from '../api/fleet';
import type { Migration } from '../api/objects';
import type { Report } from '../api/report';
import { migrations } from '../api/resources';
import { bytes, rate, span } from '../lib/units';
import { Facts } from './facts';

/** The engine's report, once there is one. It stays with the node that the machine came from. */
const useReport = (migration: Migration): { report?: Report; problem?: string } => {
  const fleet = useFleet();
  const [answer, setAnswer] = useState<{ report?: Report; problem?: string }>({});
  const { namespace, name } = migration.metadata;
  const session = migration.status?.migrationState?.result?.session;
  useEffect(() => {
    if (!session) return;
    const abort = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const object = { metadata: { name, ...(namespace === undefined ? {} : { namespace }) } };
    const look = async (tries: number) => {
      try {
        const reply = await fleet.kept(migrations, object, 'report', abort.signal);
        setAnswer({ report: (await reply.json()) as Report });
      } catch (error) {
        if (abort.signal.aborted) return;
        // It is put in its place when the VMM ends, which may be a moment after the migration.
        if (tries > 0) timer = setTimeout(() => void look(tries - 1), 1000);
        else setAnswer({ problem: error instanceof Error ? error.message : String(error) });
      }
    };
    void look(5);
    return () => {
      abort.abort();
      clearTimeout(timer);
    };
  }, [fleet, namespace, name, session]);
  return answer;
};

const maybe = <T,>(value: T | undefined, show: (value: T) => string): string | undefined => (value === undefined ? undefined : show(value));

const Rounds = ({ report }: { report: Report }) => (
  <Table aria-label="Rounds of the report" variant="compact" gridBreakPoint="grid-md">
    <Thead>
      <Tr>
        <Th>Round</Th>
        <Th>Took</Th>
        <Th>Sent</Th>
        <Th>Remaining</Th>
        <Th>On the wire</Th>
        <Th>Dirtied</Th>
        <Th>Foretold downtime</Th>
      </Tr>
    </Thead>
    <Tbody>
      {(report.rounds ?? []).slice(-50).map((round) => (
        <Tr key={round.round}>
          <Td dataLabel="Round">{round.last ? `${round.round} (the last)` : round.round}</Td>
          <Td dataLabel="Took">{span(round['duration-ms'] ?? 0)}</Td>
          <Td dataLabel="Sent">{bytes(round.bytes ?? 0)}</Td>
          <Td dataLabel="Remaining">{bytes(round['remaining-bytes'] ?? 0)}</Td>
          <Td dataLabel="On the wire">{rate(round['wire-rate'] ?? 0)}</Td>
          <Td dataLabel="Dirtied">{rate(round['dirty-rate'] ?? 0)}</Td>
          <Td dataLabel="Foretold downtime">{maybe(round['predicted-downtime-ms'], span) ?? '–'}</Td>
        </Tr>
      ))}
    </Tbody>
  </Table>
);

/** What the engine wrote down: every round, what was decided and why, and what the guest felt. */
export const ReportCard = ({ migration }: { migration: Migration }) => {
  const { report, problem } = useReport(migration);
  if (!report && !problem) return null;
  return (
    <Card>
      <CardTitle component="h2">The engine’s report</CardTitle>
      <CardBody>
        {problem && <span className="words">{problem}</span>}
        {report && (
          <>
            <Facts
              columns={3}
              facts={[
                ['Foretold downtime', maybe(report.downtime?.['predicted-ms'], span)],
                ['Downtime', maybe(report.downtime?.['total-ms'], span)],
                ['CPU time of the source', maybe(report['cpu-seconds'], (seconds) => span(seconds * 1000))],
                ['The guest in the kernel of the host', maybe(report.stalls?.total?.['kernel-ms'], span)],
                ['The guest waiting for a CPU', maybe(report.stalls?.total?.['waiting-for-cpu-ms'], span)],
                ['Encrypted', report.security ? (report.security.encrypted ? 'Yes, and both sides showed who they were' : 'No') : undefined],
              ]}
            />
            <Rounds report={report} />
            <List isPlain aria-label="What was decided, and why">
              {(report.decisions ?? []).map(({ 'at-ms': at, text }) => (
                <ListItem key={`${at} ${text}`} className="words">
                  <span className="numeric">{span(at)}</span>: {text}
                </ListItem>
              ))}
            </List>
          </>
        )}
      </CardBody>
    </Card>
  );
};
