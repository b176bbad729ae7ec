import { Alert, Button, Card, List, ListItem, Modal, ModalBody, ModalFooter, ModalHeader, PageSection, SearchInput, ToolbarItem } from '@patternfly/react-core';
import { useMemo, useState } from 'react';
import { useNavigate } from 'react-router';
import { useCopy, useFleet } from '../api/fleet';
import { instances, machines, migrations } from '../api/resources';
import { useRemembered } from '../lib/remember';
import { memoryText, plural, quantity } from '../lib/units';
import { type Action, actionNames, bulk, matches, type Row, rowsOf, specOf, statusOf } from '../model/machine';
import { Bar } from '../parts/bar';
import { Labels, Status } from '../parts/labels';
import { MachineLink } from '../parts/links';
import { type Column, ListTable } from '../parts/list-table';
import { carryOut, MachineActions } from '../parts/machine-actions';
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

const optional = ['Namespace', 'CPU', 'Memory', 'Labels', 'Created'];
const isNames = (value: unknown): value is string[] => Array.isArray(value) && value.every((one) => typeof one === 'string');

const bulkActions: Action[] = ['start', 'stop', 'restart', 'pause', 'unpause', 'migrate', 'delete'];

/** Says before a bulk action what it does, and what it leaves out and why. */
const BulkDialog = ({ action, rows, onClose }: { action: Action; rows: Row[]; onClose: () => void }) => {
  const fleet = useFleet();
  const { attempt } = useTell();
  const { does, skips } = bulk(action, rows);
  const one = (row: Row) =>
    action === 'migrate'
      ? fleet.create(migrations, { metadata: { generateName: `${row.machine.metadata.name}-` }, spec: { vmiName: row.machine.metadata.name } }, row.machine.metadata.namespace)
      : carryOut(fleet, action, row);
  const act = async () => {
    onClose();
    // One after the other: a fleet that refuses one says so once, and is not asked for all at once.
    for (const row of does) {
      const { name } = row.machine.metadata;
      await attempt(`${actionNames[action]}: ${name}`, `${actionNames[action]} of ${name} was refused`, () => one(row));
    }
  };
  return (
    <Modal isOpen variant="small" onClose={onClose} aria-labelledby="bulk-title">
      <ModalHeader title={`${actionNames[action]} ${plural(does.length, 'VirtualMachine')}?`} labelId="bulk-title" />
      <ModalBody>
        <List isPlain>
          {does.slice(0, 20).map(({ key }) => (
            <ListItem key={key}>{key}</ListItem>
          ))}
          {does.length > 20 && <ListItem>and {does.length - 20} more</ListItem>}
        </List>
        {skips.length > 0 && (
          <Alert component="h2" isInline variant="info" title={`${plural(skips.length, 'VirtualMachine is', 'VirtualMachines are')} left out`}>
            <List>
              {skips.slice(0, 20).map(({ row, why }) => (
                <ListItem key={row.key} className="words">
                  {row.key}: {why}
                </ListItem>
              ))}
            </List>
          </Alert>
        )}
      </ModalBody>
      <ModalFooter>
        <Button variant={action === 'delete' ? 'danger' : 'primary'} isDisabled={does.length === 0} onClick={() => void act()}>
          {actionNames[action]}
        </Button>
        <Button variant="link" onClick={onClose}>
          Cancel
        </Button>
      </ModalFooter>
    </Modal>
  );
};

export const MachinesPage = () => {
  const { rights } = useFleet();
  const navigate = useNavigate();
  const copy = useCopy(machines);
  const runs = useCopy(instances);
  const moves = useCopy(migrations);
  const [typed, setTyped] = useState('');
  const [hidden, setHidden] = useRemembered<string[]>('machines.hidden', ['Created'], isNames);
  const [chosen, setChosen] = useState<ReadonlySet<string>>(new Set());
  const [action, setAction] = useState<Action>();
  const rows = useMemo(() => rowsOf(copy.objects, runs.objects, moves.objects.values()), [copy.objects, runs.objects, moves.objects]);
  const shown = useMemo(() => rows.filter((row) => matches(row, typed)), [rows, typed]);
  const picked = rows.filter(({ key }) => chosen.has(key));
  const toggle = ({ key }: Row, isOn: boolean) =>
    setChosen((old) => {
      const next = new Set(old);
      if (isOn) next.add(key);
      else next.delete(key);
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
              columns={columns.filter(({ name }) => !hidden.includes(name))}
              sort={['Name', 'asc']}
              empty="No VirtualMachine matches."
              {...(rights.operate
                ? { selection: { has: ({ key }: Row) => chosen.has(key), toggle }, actions: (row: Row) => <MachineActions row={row} isKebab /> }
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
