import { Alert, Button, Card, List, ListItem, PageSection, SearchInput, ToolbarItem } from '@patternfly/react-core';
import { useCallback, useMemo, useState } from 'react';
import { useNavigate } from 'react-router';
import { useCopy, useFleet } from '../api/fleet';
import { isPassing, wordsOf } from '../api/request';
import { instances, machines, migrations } from '../api/resources';
import { useAddressText } from '../lib/address';
import { useRemembered } from '../lib/remember';
import { memoryText, plural, quantity } from '../lib/units';
import { type Action, actionNames, bulk, matches, type Row, rowsOf, specOf, statusOf } from '../model/machine';
import { Bar } from '../parts/bar';
import { Dialog } from '../parts/dialog';
import { Labels, Status } from '../parts/labels';
import { MachineLink } from '../parts/links';
import type { Column } from '../parts/list-row';
import { ListTable } from '../parts/list-table';
import { bulkConsequences, carryOut, MachineActions } from '../parts/machine-actions';
import { Menu } from '../parts/menu';
import { View } from '../parts/page';
import { States } from '../parts/states';
import { useTell } from '../parts/tell';
import { Time } from '../parts/time';

const columns: Column<Row>[] = [
  {
    name: 'Name',
    value: ({ machine }) => machine.metadata.name,
    cell: ({ machine: { metadata } }) => <MachineLink namespace={metadata.namespace} name={metadata.name} />,
  },
  { name: 'Namespace', value: ({ machine }) => machine.metadata.namespace, cell: ({ machine }) => machine.metadata.namespace },
  { name: 'Status', value: ({ machine }) => statusOf(machine), cell: ({ machine }) => <Status text={statusOf(machine)} /> },
  { name: 'Node', value: ({ instance }) => instance?.status?.nodeName, cell: ({ instance }) => instance?.status?.nodeName ?? '–' },
  { name: 'CPU', value: (row) => specOf(row)?.domain?.cpu?.cores ?? 1, cell: (row) => specOf(row)?.domain?.cpu?.cores ?? 1 },
  {
    name: 'Memory',
    value: (row) => quantity(specOf(row)?.domain?.memory?.guest),
    cell: (row) => <span className="numeric">{memoryText(specOf(row)?.domain?.memory?.guest)}</span>,
  },
  { name: 'Migration', value: ({ migration }) => migration?.metadata.name, cell: ({ migration }) => (migration ? <Bar migration={migration} /> : '–') },
  { name: 'Labels', cell: ({ machine }) => <Labels labels={machine.spec?.template?.metadata?.labels} /> },
  { name: 'Created', value: ({ machine }) => machine.metadata.creationTimestamp, cell: ({ machine }) => <Time at={machine.metadata.creationTimestamp} /> },
];

const rowActions = (row: Row) => <MachineActions row={row} isKebab />;

const optional = ['Namespace', 'CPU', 'Memory', 'Labels', 'Created'];
const isNames = (value: unknown): value is string[] => Array.isArray(value) && value.every((one) => typeof one === 'string');

/** Machines that a dialog names. */
const SHOWN = 20;

const bulkActions: Action[] = ['start', 'stop', 'restart', 'pause', 'unpause', 'migrate', 'delete'];

/** Does it to one after the other: a fleet that refuses one says so once, and is not asked for all at once. Says in one sentence what was not done. */
const doAll = async (rows: readonly Row[], one: (row: Row) => Promise<unknown>): Promise<void> => {
  const refused: string[] = [];
  let asked = 0;
  for (const row of rows) {
    asked += 1;
    try {
      await one(row);
    } catch (error) {
      refused.push(`${row.key}: ${wordsOf(error)}`);
      // Whoever cannot be reached now is not asked for each of the others too.
      if (isPassing(error)) break;
    }
  }
  if (refused.length === 0) return;
  const lines = [`${asked - refused.length} of ${rows.length} done, ${refused.length} refused${asked < rows.length ? `, ${rows.length - asked} not asked for` : ''}.`, ...refused.slice(0, 5)];
  throw new Error([...lines, ...(refused.length > 5 ? [`and ${refused.length - 5} more`] : [])].join('\n'));
};

/** Says before a bulk action what it does, and what it leaves out and why. */
const BulkDialog = ({ action, rows, onClose }: { action: Action; rows: Row[]; onClose: () => void }) => {
  const fleet = useFleet();
  const { attempt } = useTell();
  const { does, skips } = bulk(action, rows);
  const one = (row: Row) =>
    action === 'migrate'
      ? fleet.create(migrations, { metadata: { generateName: `${row.machine.metadata.name}-` }, spec: { vmiName: row.machine.metadata.name } }, row.machine.metadata.namespace)
      : carryOut(fleet, action, row);
  const act = () => attempt(`${actionNames[action]}: ${plural(does.length, 'VirtualMachine')}`, `${actionNames[action]}: not all of it was done`, () => doAll(does, one));
  return (
    <Dialog title={`${actionNames[action]} ${plural(does.length, 'VirtualMachine')}?`} verb={actionNames[action]} isDanger={action === 'delete'} isDisabled={does.length === 0} onConfirm={act} onClose={onClose}>
      <p>{bulkConsequences[action]}</p>
      <List isPlain>
        {does.slice(0, SHOWN).map(({ key }) => (
          <ListItem key={key} className="words">
            {key}
          </ListItem>
        ))}
        {does.length > SHOWN && <ListItem>and {does.length - SHOWN} more</ListItem>}
      </List>
      {skips.length > 0 && (
        <Alert component="h2" isInline variant="info" title={`${plural(skips.length, 'VirtualMachine is', 'VirtualMachines are')} left out`}>
          <List>
            {skips.slice(0, SHOWN).map(({ row, why }) => (
              <ListItem key={row.key} className="words">
                {row.key}: {why}
              </ListItem>
            ))}
            {skips.length > SHOWN && <ListItem>and {skips.length - SHOWN} more</ListItem>}
          </List>
        </Alert>
      )}
    </Dialog>
  );
};

export const MachinesPage = () => {
  const { rights } = useFleet();
  const navigate = useNavigate();
  const copy = useCopy(machines);
  const runs = useCopy(instances);
  const moves = useCopy(migrations);
  const [typed, setTyped] = useAddressText('filter');
  const [hidden, setHidden] = useRemembered<string[]>('machines.hidden', ['Created'], isNames);
  const [chosen, setChosen] = useState<ReadonlySet<string>>(new Set());
  const [action, setAction] = useState<Action>();
  const rows = useMemo(() => rowsOf(copy.objects, runs.objects, moves.objects.values()), [copy.objects, runs.objects, moves.objects]);
  const shown = useMemo(() => rows.filter((row) => matches(row, typed)), [rows, typed]);
  const picked = rows.filter(({ key }) => chosen.has(key));
  const shownColumns = useMemo(() => columns.filter(({ name }) => !hidden.includes(name)), [hidden]);
  const toggle = useCallback(
    ({ key }: Row, isOn: boolean) =>
      setChosen((old) => {
        const next = new Set(old);
        if (isOn) next.add(key);
        else next.delete(key);
        return next;
      }),
    [],
  );
  const toggleAll = (all: readonly Row[], isOn: boolean) =>
    setChosen((old) => {
      const next = new Set(old);
      for (const { key } of all) {
        if (isOn) next.add(key);
        else next.delete(key);
      }
      return next;
    });
  const create = (
    <Button onClick={() => void navigate('/machines/~new')}>Create VirtualMachine</Button>
  );
  return (
    <View title="VirtualMachines" actions={rights.operate ? create : undefined}>
      <PageSection aria-label="List of VirtualMachines">
        <States copy={copy} isEmpty={rows.length === 0} empty="There are no VirtualMachines" hint={rights.operate ? create : undefined}>
          <Card>
            <ListTable
              label="VirtualMachines"
              rows={shown}
              keyOf={({ key }) => key}
              columns={shownColumns}
              sort={['Name', 'asc']}
              empty="No VirtualMachine matches."
              {...(rights.operate
                ? { selection: { has: ({ key }: Row) => chosen.has(key), toggle, toggleAll }, actions: rowActions }
                : {})}
              toolbar={
                <>
                  <ToolbarItem>
                    <SearchInput
                      aria-label="Filter by name, namespace, node, status or label"
                      placeholder="Name, node, status, key=value"
                      value={typed}
                      onChange={(_, value) => setTyped(value)}
                      onClear={() => setTyped('')}
                      resultsCount={typed ? shown.length : undefined}
                    />
                  </ToolbarItem>
                  <ToolbarItem>
                    <Menu
                      label="Columns"
                      items={optional.map((name) => ({
                        name: hidden.includes(name) ? `Show ${name}` : `Hide ${name}`,
                        onChoose: () => setHidden(hidden.includes(name) ? hidden.filter((one) => one !== name) : [...hidden, name]),
                      }))}
                    />
                  </ToolbarItem>
                  {rights.operate && (
                    <ToolbarItem>
                      <Menu
                        label={`Actions (${picked.length})`}
                        items={bulkActions.map((one) => ({
                          name: actionNames[one],
                          whyNot: picked.length === 0 ? 'Choose VirtualMachines first.' : undefined,
                          onChoose: () => setAction(one),
                        }))}
                      />
                    </ToolbarItem>
                  )}
                </>
              }
            />
          </Card>
        </States>
      </PageSection>
      {action && <BulkDialog action={action} rows={picked} onClose={() => setAction(undefined)} />}
    </View>
  );
};
