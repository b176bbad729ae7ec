import { Table, Tbody, Td, Th, Thead, Tr } from '@patternfly/react-table';
import { bytes, rate, span } from '../lib/units';

/** A round as it is shown. What is not known says what `unknown` says. */
export interface RoundRow {
  key: number;
  name: string;
  tookMs?: number | undefined;
  sent: number;
  remaining: number;
  wireRate: number | undefined;
  dirtyRate: number | undefined;
  predictedDowntimeMs: number | undefined;
}

/** Rounds that are shown: the last ones. */
const SHOWN = 50;

const maybe = (value: number | undefined, show: (value: number) => string, unknown: string): string => (value === undefined ? unknown : show(value));

/** The rounds of a migration, of one that goes on or of a report. */
export const RoundTable = ({ label, rounds, unknown }: { label: string; rounds: readonly RoundRow[]; unknown: string }) => {
  const hasTimes = rounds.some(({ tookMs }) => tookMs !== undefined);
  const columns: [string, (round: RoundRow) => string][] = [
    ['Round', ({ name }) => name],
    ...(hasTimes ? ([['Took', ({ tookMs }) => maybe(tookMs, span, '–')]] as [string, (round: RoundRow) => string][]) : []),
    ['Sent', ({ sent }) => bytes(sent)],
    ['Remaining', ({ remaining }) => bytes(remaining)],
    ['On the wire', ({ wireRate }) => maybe(wireRate, rate, unknown)],
    ['Dirtied', ({ dirtyRate }) => maybe(dirtyRate, rate, unknown)],
    ['Foretold downtime', ({ predictedDowntimeMs }) => maybe(predictedDowntimeMs, span, '–')],
  ];
  return (
    <Table aria-label={label} variant="compact" gridBreakPoint="grid-md">
      <Thead>
        <Tr>
          {columns.map(([name]) => (
            <Th key={name}>{name}</Th>
          ))}
        </Tr>
      </Thead>
      <Tbody>
        {rounds.slice(-SHOWN).map((round) => (
          <Tr key={round.key}>
            {columns.map(([name, cell]) => (
              <Td key={name} dataLabel={name} className="numeric">
                {cell(round)}
              </Td>
            ))}
          </Tr>
        ))}
      </Tbody>
    </Table>
  );
};
