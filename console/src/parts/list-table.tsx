import { Pagination, Toolbar, ToolbarContent, ToolbarItem } from '@patternfly/react-core';
import { Table, Tbody, Td, Th, Thead, Tr } from '@patternfly/react-table';
import { type ReactNode, useMemo, useState } from 'react';
import { pageOf, sortBy } from '../lib/paging';
import { type Column, ListRow } from './list-row';

interface Props<T> {
  label: string;
  rows: readonly T[];
  keyOf: (row: T) => string;
  /** The same array each time, as `actions` and `toggle` are the same functions: otherwise every row is drawn again whenever one changes. */
  columns: readonly Column<T>[];
  /** The column and direction to begin with. */
  sort: [string, 'asc' | 'desc'];
  /** What stands above: filters and actions. */
  toolbar?: ReactNode;
  /** What can be done with a row; the last column. */
  actions?: (row: T) => ReactNode;
  selection?: { has: (row: T) => boolean; toggle: (row: T, isOn: boolean) => void; toggleAll: (rows: readonly T[], isOn: boolean) => void };
  /** What is shown instead of rows where there are none. */
  empty: ReactNode;
}

const SIZES = [20, 50, 100].map((value) => ({ title: String(value), value }));

/** A table that is sorted and paged: ten thousand rows cost what one page costs. */
export const ListTable = <T,>({ label, rows, keyOf, columns, sort, toolbar, actions, selection, empty }: Props<T>) => {
  const [[by, direction], setSort] = useState(sort);
  const [page, setPage] = useState(1);
  const [size, setSize] = useState(20);
  const value = columns.find(({ name }) => name === by)?.value;
  const sorted = useMemo(() => (value ? sortBy(rows, value, direction) : rows), [rows, value, direction]);
  const shown = pageOf(sorted, page, size);
  const current = Math.min(page, Math.max(1, Math.ceil(rows.length / size)));
  const sortOf = (column: Column<T>, index: number) =>
    column.value && {
      columnIndex: index,
      sortBy: { index: columns.findIndex(({ name }) => name === by), direction },
      onSort: (_: unknown, __: number, next: 'asc' | 'desc') => setSort([column.name, next]),
    };
  return (
    <>
      <Toolbar>
        <ToolbarContent>
          {toolbar}
          <ToolbarItem variant="pagination" align={{ default: 'alignEnd' }}>
            <Pagination
              isCompact
              itemCount={rows.length}
              page={current}
              perPage={size}
              perPageOptions={SIZES}
              onSetPage={(_, next) => setPage(next)}
              onPerPageSelect={(_, next) => setSize(next)}
              titles={{ paginationAriaLabel: `Pages of ${label}` }}
            />
          </ToolbarItem>
        </ToolbarContent>
      </Toolbar>
      <div className="scroll" role="region" aria-label={`${label}, table`} tabIndex={0}>
      <Table aria-label={label} variant="compact" gridBreakPoint="grid-lg">
        <Thead>
          <Tr>
            {selection && (
              <Th
                aria-label={`Select all ${rows.length}`}
                select={{ isSelected: rows.length > 0 && rows.every(selection.has), isDisabled: rows.length === 0, onSelect: (_, isOn) => selection.toggleAll(rows, isOn) }}
              />
            )}
            {columns.map((column, index) => (
              <Th key={column.name} modifier="nowrap" sort={sortOf(column, index)}>
                {column.name}
              </Th>
            ))}
            {actions && <Th screenReaderText="Actions" />}
          </Tr>
        </Thead>
        <Tbody>
          {shown.map((row, index) => (
            <ListRow key={keyOf(row)} row={row} index={index} columns={columns} actions={actions} isSelected={selection?.has(row)} onSelect={selection?.toggle} />
          ))}
          {shown.length === 0 && (
            <Tr>
              <Td colSpan={columns.length + (selection ? 1 : 0) + (actions ? 1 : 0)}>{empty}</Td>
            </Tr>
          )}
        </Tbody>
      </Table>
      </div>
    </>
  );
};
