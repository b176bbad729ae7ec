import { useState } from 'react';
import { useNavigate } from 'react-router';
import type { Fleet } from '../api/fleet';
import { useFleet } from '../api/fleet';
import { instances, machines } from '../api/resources';
import { type Action, actionNames, type Row, whyNot } from '../model/machine';
import { Confirm } from './confirm';
import type { Item } from './menu';
import { Menu } from './menu';
import { MigrateDialog } from './migrate-dialog';
import { useTell } from './tell';

/** Each action is one write, the same that `whimbrel` and kubectl do. */
export const carryOut = (fleet: Fleet, action: Exclude<Action, 'migrate'>, { machine, instance }: Row): Promise<unknown> => {
  const run = { metadata: instance?.metadata ?? machine.metadata };
  switch (action) {
    case 'start':
      return fleet.patch(machines, machine, { spec: { runStrategy: 'Always' } });
    case 'stop':
      return fleet.patch(machines, machine, { spec: { runStrategy: 'Halted' } });
    case 'restart':
      return fleet.remove(instances, run);
    case 'pause':
      return fleet.patch(instances, run, { spec: { paused: true } });
    case 'unpause':
      return fleet.patch(instances, run, { spec: { paused: false } });
    case 'delete':
      return fleet.remove(machines, machine);
  }
};

/** What an action that ends something does, before it is done. */
export const consequence = (action: Action, name: string): string =>
  ({
    start: `${name} is started.`,
    stop: `The run of ${name} ends. What its guest has not written to a disk is lost. The machine stays, and can be started again.`,
    restart: `The run of ${name} ends, and another begins from its description as it is now. What its guest has not written to a disk is lost.`,
    pause: `The guest of ${name} stands still until it is unpaused.`,
    unpause: `The guest of ${name} goes on.`,
    migrate: `${name} moves to another node.`,
    delete: `${name} ends if it runs, and its description is gone. Files of its disks and the records of its migrations stay.`,
  })[action];

/** The same of many. */
export const bulkConsequences: Record<Action, string> = {
  start: 'They are started.',
  stop: 'Their runs end. What their guests have not written to a disk is lost. The machines stay, and can be started again.',
  restart: 'Their runs end, and others begin from their descriptions as they are now. What their guests have not written to a disk is lost.',
  pause: 'Their guests stand still until they are unpaused.',
  unpause: 'Their guests go on.',
  migrate: 'They move to other nodes while they run, as many at a time as the limits allow.',
  delete: 'They end if they run, and their descriptions are gone. Files of their disks and the records of their migrations stay.',
};

const isHarmless = (action: Action): boolean => action === 'start' || action === 'pause' || action === 'unpause';

/** The actions of a machine. `isKebab` is for a row of a list. */
export const MachineActions = ({ row, isKebab = false }: { row: Row; isKebab?: boolean }) => {
  const fleet = useFleet();
  const { attempt } = useTell();
  const navigate = useNavigate();
  const [open, setOpen] = useState<Action>();
  const { name, namespace = '' } = row.machine.metadata;
  if (!fleet.rights.operate) return null;

  const act = (action: Exclude<Action, 'migrate'>) =>
    attempt(`${actionNames[action]}: ${name}`, `${actionNames[action]} of ${name} was refused`, () => carryOut(fleet, action, row));
  const item = (action: Action): Item => ({
    name: action === 'migrate' ? 'Migration → Compute' : actionNames[action],
    whyNot: whyNot(action, row),
    ...(action === 'migrate' ? { hint: 'Migrate the VirtualMachine to another node' } : {}),
    isDanger: action === 'delete',
    onChoose: () => {
      if (action !== 'migrate' && isHarmless(action)) void act(action);
      else setOpen(action);
    },
  });
  const isHalted = row.machine.spec?.runStrategy === 'Halted';
  const isPaused = row.instance?.spec?.paused === true;
  const items: Item[] = [
    item(isHalted ? 'start' : 'stop'),
    item('restart'),
    item(isPaused ? 'unpause' : 'pause'),
    item('migrate'),
    {
      name: 'Copy console command',
      hint: 'For a terminal: the serial port of the guest, both ways',
      whyNot: row.instance?.status?.vmm ? undefined : 'It has no VMM now.',
      onChoose: () => {
        const text = `whimbrel console ${name} --namespace ${namespace}`;
        void attempt('The command was copied', 'The command was not copied', () => navigator.clipboard.writeText(text));
      },
    },
    item('delete'),
  ];
  return (
    <>
      <Menu label={isKebab ? `Actions of ${name}` : 'Actions'} items={items} isKebab={isKebab} />
      {open === 'migrate' && <MigrateDialog row={row} onClose={() => setOpen(undefined)} />}
      {open !== undefined && open !== 'migrate' && (
        <Confirm
          title={`${actionNames[open]} ${name}?`}
          verb={actionNames[open]}
          onClose={() => setOpen(undefined)}
          onConfirm={async () => {
            const isDone = await act(open);
            if (isDone && open === 'delete' && !isKebab) void navigate('/machines');
            return isDone;
          }}
        >
          {consequence(open, `${namespace}/${name}`)}
        </Confirm>
      )}
    </>
  );
};
