import { Card, CardBody, CardTitle, List, ListItem } from '@patternfly/react-core';
import { useCallback } from 'react';
import { useFleet } from '../api/fleet';
import type { Migration } from '../api/objects';
import { type How, type Polled, usePolled } from '../api/polled';
import type { Report } from '../api/report';
import { migrations } from '../api/resources';
import { span } from '../lib/units';
import { Facts } from './facts';
import { type RoundRow, RoundTable } from './round-table';

/** It is put in its place when the VMM ends, which may be a moment after the migration. */
const HOW: How<Report> = { every: 1000, isLast: () => true, tries: 5 };

/** The engine's report, once there is one. It stays with the node that the machine came from. */
const useReport = (migration: Migration): Polled<Report> => {
  const fleet = useFleet();
  const { namespace = '', name } = migration.metadata;
  const session = migration.status?.migrationState?.result?.session;
  const read = useCallback(async (signal: AbortSignal) => (await (await fleet.kept(migrations, { metadata: { namespace, name } }, 'report', signal)).json()) as Report, [fleet, namespace, name]);
  return usePolled(session ? read : undefined, HOW);
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
  const { value: report, problem, failures } = useReport(migration);
  const isGivenUp = failures >= (HOW.tries ?? 0);
  if (!report && !isGivenUp) return null;
  return (
    <Card>
      <CardTitle component="h2">The engine’s report</CardTitle>
      <CardBody>
        {isGivenUp && <span className="words">{problem}</span>}
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
