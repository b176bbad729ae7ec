import { Card, CardBody, CardTitle } from '@patternfly/react-core';
import { Table, Tbody, Td, Th, Thead, Tr } from '@patternfly/react-table';
import type { Instance } from '../api/objects';
import { rate, span } from '../lib/units';
import { diskNames, type DiskRates } from '../model/usage';

const perSecond = (count: number): string => `${count < 10 ? count.toFixed(1) : Math.round(count)}/s`;
/** Most of what a page cache has is there within microseconds. */
const took = (milliseconds: number | undefined): string => (milliseconds === undefined ? '–' : milliseconds < 1 ? `${Math.round(milliseconds * 1000)} µs` : span(milliseconds));

const columns: [string, (disk: DiskRates) => string][] = [
  ['Read', ({ read }) => rate(read)],
  ['Written', ({ written }) => rate(written)],
  ['Reads', ({ reads }) => perSecond(reads)],
  ['Writes', ({ writes }) => perSecond(writes)],
  ['Flushes', ({ flushes }) => perSecond(flushes)],
  ['A read takes', ({ readMs }) => took(readMs)],
  ['A write takes', ({ writeMs }) => took(writeMs)],
  ['A flush takes', ({ flushMs }) => took(flushMs)],
  ['Errors', ({ errors }) => String(errors)],
];

/** What the guest asks of each of its disks. */
export const DiskTable = ({ instance, disks }: { instance: Instance; disks: readonly DiskRates[] | undefined }) => {
  const names = diskNames(instance, disks ?? []);
  return (
    <Card>
      <CardTitle component="h2">Disks, as the guest sees them</CardTitle>
      {disks === undefined ? (
        <CardBody>Known in a moment: a rate is between two looks.</CardBody>
      ) : (
        <div className="scroll" role="region" aria-label="Disks, table" tabIndex={0}>
          <Table aria-label="Disks" variant="compact" gridBreakPoint="grid-md">
            <Thead>
              <Tr>
                <Th>Disk</Th>
                {columns.map(([name]) => (
                  <Th key={name} modifier="nowrap">
                    {name}
                  </Th>
                ))}
              </Tr>
            </Thead>
            <Tbody>
              {disks.map((disk) => (
                <Tr key={disk.name}>
                  <Td dataLabel="Disk" className="words">
                    <span title={disk.path}>{names.get(disk.name)}</span>
                  </Td>
                  {columns.map(([name, text]) => (
                    <Td key={name} dataLabel={name} className="numeric">
                      {text(disk)}
                    </Td>
                  ))}
                </Tr>
              ))}
            </Tbody>
          </Table>
        </div>
      )}
    </Card>
  );
};
