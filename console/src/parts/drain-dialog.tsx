import { Alert, Form, Spinner, TextInput } from '@patternfly/react-core';
import { useState } from 'react';
import { useNavigate } from 'react-router';
import { useFleet } from '../api/fleet';
import type { DrainPlan } from '../api/objects';
import { useQuestion } from '../api/question';
import { drainPlans, drains, fleets, instances, migrations, nodes } from '../api/resources';
import { plural } from '../lib/units';
import { drainSpecOf, emptyDrain, secondsText, wrongDrain } from '../model/drain';
import { Dialog } from './dialog';
import { BlockedTable, StepTable } from './drain-tables';
import { Facts } from './facts';
import { Field } from './field';
import { drainPath } from './links';
import { useTell } from './tell';

/** What decides what would become of a drain. */
const depends = [nodes, instances, migrations, drains, fleets];

const Plan = ({ plan }: { plan: DrainPlan }) => {
  const { machines = 0, concurrency = 0, etaSeconds = 0, inTime, nodes: planned = [], steps = [], blocked = 0, blockedMachines = [] } = plan;
  const refused = planned.filter(({ whyNot }) => whyNot);
  const waiting = planned.filter(({ waits, whyNot }) => waits && !whyNot);
  return (
    <div role="status" aria-label="What would become of it">
      <Facts
        facts={[
          ['Machines there', String(machines)],
          ['At a time', plural(concurrency, 'migration')],
          ['Would move', `${steps.length === 1000 ? 'more than 999' : steps.length}`],
          ['Over in about', steps.length === 0 ? 'Nothing moves' : secondsText(etaSeconds)],
        ]}
      />
      {refused.map(({ name, whyNot }) => (
        <Alert key={name} component="h2" isInline variant="warning" title={`${name} cannot be begun now`}>
          <span className="words">{whyNot}</span>
        </Alert>
      ))}
      {waiting.length > 0 && (
        <Alert component="h2" isInline variant="info" title={`${waiting.map(({ name }) => name).join(', ')} ${waiting.length === 1 ? 'waits' : 'wait'}`}>
          Begun only when you uncordon an earlier one, so that enough nodes stay ready and schedulable.
        </Alert>
      )}
      {inTime === false && <Alert component="h2" isInline variant="warning" title="Not all would be empty before the deadline" />}
      {blocked > 0 && (
        <Alert component="h2" isInline variant="warning" title={`${plural(blocked, 'machine')} cannot move as things are`}>
          They stay where they are and run on, and the drain waits for them. It goes on by itself when the reason is gone, or when they are stopped.
        </Alert>
      )}
      {blockedMachines.length > 0 && <BlockedTable blocked={blockedMachines} count={blocked} />}
      {steps.length > 0 && <StepTable label="Moves, in order" steps={steps} />}
    </div>
  );
};

/** Empties nodes: first what would become of that, then the drain. */
export const DrainDialog = ({ names, onClose }: { names: string[]; onClose: () => void }) => {
  const fleet = useFleet();
  const navigate = useNavigate();
  const { attempt } = useTell();
  const [form, setForm] = useState(emptyDrain);
  const errors = wrongDrain(form);
  const spec = drainSpecOf(names, form);
  const { status: plan, problem, isAbsent = false } = useQuestion<DrainPlan>(drainPlans, spec, depends);
  const drain = () =>
    attempt(`The drain of ${names.join(', ')} was asked for`, `${names.join(', ')} is not drained`, async () => {
      const made = await fleet.create(drains, { metadata: { generateName: 'drain-' }, spec });
      void navigate(drainPath(made.metadata.name));
    });
  return (
    <Dialog
      title={`Drain ${names.join(', ')}`}
      description="Nothing new is placed there, and machines move away while they run. Afterwards the node stays cordoned until you uncordon it."
      verb="Drain"
      variant="large"
      problem={isAbsent ? undefined : problem}
      isDisabled={!spec || (!plan && !isAbsent)}
      onConfirm={drain}
      onClose={onClose}
    >
      <Form onSubmit={(event) => event.preventDefault()}>
        <Field id="deadline" label="Deadline, minutes" hint="Given up then: migrations under way are brought to their end. Empty: none." error={errors.deadline}>
          <TextInput id="deadline" inputMode="numeric" value={form.deadline} onChange={(_, deadline) => setForm({ ...form, deadline })} />
        </Field>
        <Field id="min-available" label="Nodes that stay" hint="A node is begun only where so many others are ready and schedulable." error={errors.minAvailable}>
          <TextInput id="min-available" inputMode="numeric" value={form.minAvailable} onChange={(_, minAvailable) => setForm({ ...form, minAvailable })} />
        </Field>
        {spec && !plan && !problem && <Spinner aria-label="Asking what would become of it" />}
        {isAbsent && (
          <Alert component="h2" isInline variant="info" title="This API server does not say beforehand what would become of it">
            <code>whimbrel drain --dry-run</code> does.
          </Alert>
        )}
        {plan && <Plan plan={plan} />}
      </Form>
    </Dialog>
  );
};
