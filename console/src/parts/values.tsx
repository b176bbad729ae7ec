import { Table, Tbody, Td, Th, Thead, Tr } from '@patternfly/react-table';
import type { Origin, Values } from '../api/objects';
import { originNames, type ValueName, valueNames, valueText } from '../model/policy';

/** The values of a migration with where each comes from. */
export const ValuesTable = ({ values, origins }: { values: Values; origins?: Record<string, Origin> | undefined }) => (
  <Table aria-label="Values that apply" variant="compact" borders={false}>
    <Thead>
      <Tr>
        <Th>Value</Th>
        <Th>Is</Th>
        {origins && <Th>Comes from</Th>}
      </Tr>
    </Thead>
    <Tbody>
      {(Object.keys(valueNames) as ValueName[]).map((name) => (
        <Tr key={name}>
          <Td dataLabel="Value">{valueNames[name]}</Td>
          <Td dataLabel="Is">{valueText(name, values[name])}</Td>
          {origins && <Td dataLabel="Comes from">{originNames[origins[name] ?? 'Default']}</Td>}
        </Tr>
      ))}
    </Tbody>
  </Table>
);
