import { Table, Tbody, Td, Th, Thead, Tr } from '@patternfly/react-table';
import type { ReactNode } from 'react';
import type { BlockedMachine, DrainStep } from '../api/objects';
import { memory, span } from '../lib/units';
import { basisText, firstOf, secondsText, targetText } from '../model/drain';
import { MachineLink } from './links';

/** Rows that are shown. A plan may have a thousand. */
const SHOWN = 50;

interface Props {
  label: string;
  heads: string[];
  rows: { key: string; cells: ReactNode[] }[];
  /** Rows that there are beside these. */
  more: number;
}

const Plain = ({ label, heads, rows, more }: Props) => (
  <div className="scroll" role="region" aria-label={`${label}, table`} tabIndex={0}>
    <Table aria-label={label} variant="compact" gridBreakPoint="grid-md">
      <Thead>
        <Tr>
          {heads.map((head) => (
            <Th key={head} modifier="nowrap">
              {head}
            </Th>
          ))}
        </Tr>
      </Thead>
      <Tbody>
        {rows.map(({ key, cells }) => (
          <Tr key={key}>
            {heads.map((head, index) => (
              <Td key={head} dataLabel={head} className="words">
                {cells[index]}
              </Td>
            ))}
          </Tr>
        ))}
        {more > 0 && (
          <Tr>
            <Td colSpan={heads.length}>and {more} more</Td>
          </Tr>
        )}
      </Tbody>
    </Table>
  </div>
);

/** Moves in the order in which they begin, with when, how long, and from what that is foretold. */
export const StepTable = ({ label, steps }: { label: string; steps: readonly DrainStep[] }) => {
  const [shown, more] = firstOf(steps, SHOWN);
  const rows = shown.map((step) => ({
    key: `${step.namespace}/${step.name}/${step.sourceNode}`,
    cells: [
      <MachineLink key="name" namespace={step.namespace} name={step.name} />,
      step.sourceNode,
      targetText(step),
      memory(step.memoryBytes ?? 0),
      secondsText(step.startSeconds ?? 0),
      step.seconds === undefined ? '–' : span(step.seconds * 1000),
      step.lastDowntimeMs === undefined ? '–' : span(step.lastDowntimeMs),
      basisText(step),
    ],
  }));
  return <Plain label={label} heads={['VirtualMachine', 'From', 'To', 'Memory', 'Begins', 'Takes', 'Downtime last time', 'Foretold from']} rows={rows} more={more} />;
};

/** Machines that cannot move, with every reason. */
export const BlockedTable = ({ blocked, count }: { blocked: readonly BlockedMachine[]; count: number }) => {
  const [shown] = firstOf(blocked, SHOWN);
  const rows = shown.map((one) => ({
    key: `${one.namespace}/${one.name}`,
    cells: [<MachineLink key="name" namespace={one.namespace} name={one.name} />, one.node, one.reason ?? '–', one.message],
  }));
  return <Plain label="Machines that cannot move" heads={['VirtualMachine', 'Node', 'Reason', 'Why, and what becomes of it']} rows={rows} more={Math.max(0, count - shown.length)} />;
};
