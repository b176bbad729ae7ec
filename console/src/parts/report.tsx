import { Card, CardBody, CardTitle, List, ListItem } from '@patternfly/react-core';
import { useEffect, useState } from 'react';
import { useFleet } from '../api/fleet';
import type { Migration } from '../api/objects';
import type { Report } from '../api/report';
import { migrations } from '../api/resources';
import { span } from '../lib/units';
import { Facts } from './facts';
import { type RoundRow, RoundTable } from './round-table';

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

const roundsOf = ({ rounds = [] }: Report): RoundRow[] =>
  rounds.map((round) => ({
    key: round.round,
    name: round.last ? `${round.round} (the last)` : String(round.round),
    tookMs: round['duration-ms'] ?? 0,
    sent: round.bytes ?? 0,
    remaining: round['remaining-bytes'] ?? 0,
    wireRate: round['wire-rate'] ?? 0,
    dirtyRate: round['dirty-rate'] ?? 0,
    predictedDowntimeMs: round['predicted-downtime-ms'],
  }));

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
            <RoundTable label="Rounds of the report" rounds={roundsOf(report)} unknown="–" />
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
