import { Card, FormSelect, FormSelectOption, SearchInput, ToolbarItem } from '@patternfly/react-core';
import type { ReactNode } from 'react';
import { useFleet } from '../api/fleet';
import type { Migration } from '../api/objects';
import { useAddressText } from '../lib/address';
import { span } from '../lib/units';
import { createdAt, duration, outcomeOf, percent, phaseOf, stateOf, story } from '../model/migration';
import { Bar } from './bar';
import { CancelMigration } from './cancel-migration';
import { PhaseLabel } from './labels';
import { MachineLink, MigrationLink, PolicyLink } from './links';
import type { Column } from './list-row';
import { ListTable } from './list-table';
import { Time, useNow } from './time';

const Duration = ({ migration }: { migration: Migration }) => {
  const now = useNow();
  const value = duration(migration, now);
  return <span className="numeric">{value === undefined ? '–' : span(value)}</span>;
};

const columns: Column<Migration>[] = [
  {
    name: 'VirtualMachine',
    value: ({ spec }) => spec?.vmiName,
    cell: ({ metadata, spec }) => <MachineLink namespace={metadata.namespace} name={spec?.vmiName ?? ''} />,
  },
  { name: 'Namespace', value: ({ metadata }) => metadata.namespace, cell: ({ metadata }) => metadata.namespace },
  { name: 'Status', value: outcomeOf, cell: (migration) => <PhaseLabel migration={migration} /> },
  { name: 'Progress', cell: (migration) => <Bar migration={migration} /> },
  { name: 'Source', value: (migration) => stateOf(migration).sourceNode, cell: (migration) => stateOf(migration).sourceNode ?? '–' },
  { name: 'Target', value: (migration) => stateOf(migration).targetNode, cell: (migration) => stateOf(migration).targetNode ?? '–' },
  {
    name: 'MigrationPolicy',
    value: (migration) => stateOf(migration).migrationPolicyName,
    cell: (migration) => <PolicyLink name={stateOf(migration).migrationPolicyName} />,
  },
  { name: 'VirtualMachineInstanceMigration', value: ({ metadata }) => metadata.name, cell: (migration) => <MigrationLink migration={migration} /> },
  { name: 'Duration', cell: (migration) => <Duration migration={migration} /> },
  {
    name: 'Downtime',
    value: (migration) => stateOf(migration).result?.downtime?.totalMs,
    cell: (migration) => {
      const downtime = stateOf(migration).result?.downtime?.totalMs;
      return <span className="numeric">{downtime === undefined ? '–' : span(downtime)}</span>;
    },
  },
  { name: 'Created', value: createdAt, cell: ({ metadata }) => <Time at={metadata.creationTimestamp} /> },
  { name: 'What is said', cell: (migration) => <span className="words clamp said">{story(migration) ?? '–'}</span> },
];

/** Those where all are of one machine, whose name and namespace need not be told. */
const columnsOfOne = columns.filter(({ name }) => name !== 'VirtualMachine' && name !== 'Namespace');

const actions = (migration: Migration) => <CancelMigration migration={migration} isKebab />;

/** What of a row can be searched, by the name of the column. */
const texts: Record<string, (migration: Migration) => string | undefined> = {
  VirtualMachine: ({ spec }) => spec?.vmiName,
  Namespace: ({ metadata }) => metadata.namespace,
  Status: (migration) => `${outcomeOf(migration)} ${phaseOf(migration)}`,
  Progress: (migration) => `${percent(migration)}%`,
  Source: (migration) => stateOf(migration).sourceNode,
  Target: (migration) => stateOf(migration).targetNode,
  MigrationPolicy: (migration) => stateOf(migration).migrationPolicyName ?? 'No MigrationPolicy',
  VirtualMachineInstanceMigration: ({ metadata }) => metadata.name,
  Duration: (migration) => texted(duration(migration, NaN), span),
  Downtime: (migration) => texted(stateOf(migration).result?.downtime?.totalMs, span),
  Created: ({ metadata }) => metadata.creationTimestamp,
  'What is said': story,
};

const texted = (value: number | undefined, text: (value: number) => string): string | undefined => (value === undefined || Number.isNaN(value) ? undefined : text(value));

interface Props {
  migrations: Migration[];
  /** All are of one machine. */
  isOfOne?: boolean;
  toolbar?: ReactNode;
}

export const MigrationTable = ({ migrations, isOfOne = false, toolbar }: Props) => {
  const { rights } = useFleet();
  const [typed, setTyped] = useAddressText('filter');
  const [column, setColumn] = useAddressText('column');
  const words = typed.toLowerCase().split(/\s+/).filter(Boolean);
  const looked = texts[column] ? [texts[column]] : Object.values(texts);
  const matches = (migration: Migration) => {
    const all = looked.map((text) => (text(migration) ?? '').toLowerCase());
    return words.every((word) => all.some((text) => text.includes(word)));
  };
  const shown = words.length === 0 ? migrations : migrations.filter(matches);
  return (
    <Card>
      <ListTable
        label="Migrations"
        rows={shown}
        keyOf={({ metadata }) => metadata.uid ?? metadata.name}
        columns={isOfOne ? columnsOfOne : columns}
        sort={['Created', 'desc']}
        empty="No migration matches. Another time range may show more."
        {...(rights.operate ? { actions } : {})}
        toolbar={
          <>
            <ToolbarItem>
              <FormSelect aria-label="Column to filter by" value={column} onChange={(_, name) => setColumn(name)}>
                <FormSelectOption value="" label="Any column" />
                {Object.keys(texts).map((name) => (
                  <FormSelectOption key={name} value={name} label={name} />
                ))}
              </FormSelect>
            </ToolbarItem>
            <ToolbarItem>
              <SearchInput
                aria-label="Filter by what a column says"
                placeholder="Words"
                value={typed}
                onChange={(_, value) => setTyped(value)}
                onClear={() => setTyped('')}
              />
            </ToolbarItem>
            {toolbar}
          </>
        }
      />
    </Card>
  );
};
