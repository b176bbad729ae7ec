import { Td, Tr } from '@patternfly/react-table';
import { memo, type ReactNode } from 'react';
import { isAlike } from '../lib/alike';

export interface Column<T> {
  name: string;
  cell: (row: T) => ReactNode;
  /** By what it is sorted; without it, it is not. */
  value?: (row: T) => string | number | undefined;
}

interface Props<T> {
  row: T;
  index: number;
  columns: readonly Column<T>[];
  actions: ((row: T) => ReactNode) | undefined;
  /** Absent where rows are not selected. */
  isSelected: boolean | undefined;
  onSelect: ((row: T, isOn: boolean) => void) | undefined;
}

const Drawn = <T,>({ row, index, columns, actions, isSelected, onSelect }: Props<T>) => (
  <Tr>
    {isSelected !== undefined && <Td select={{ rowIndex: index, isSelected, onSelect: (_, isOn) => onSelect?.(row, isOn) }} />}
    {columns.map((column) => (
      <Td key={column.name} dataLabel={column.name}>
        {column.cell(row)}
      </Td>
    ))}
    {actions && <Td isActionCell>{actions(row)}</Td>}
  </Tr>
);

/** A row of a list. It is drawn again when something of it changes, and not when another row does: in a large fleet that is all the time. */
export const ListRow = memo(Drawn, ({ row: before, ...rest }, { row: after, ...others }) => isAlike(before, after) && isAlike(rest, others)) as typeof Drawn;
