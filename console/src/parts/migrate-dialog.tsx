import { Alert, Button, Form, FormGroup, FormSelect, FormSelectOption, Radio, Spinner, TextInput } from '@patternfly/react-core';
import { Table, Tbody, Td, Th, Thead, Tr } from '@patternfly/react-table';
import { useState } from 'react';
import { useNavigate } from 'react-router';
import { useAll, useFleet } from '../api/fleet';
import type { Plan, PlannedTarget } from '../api/objects';
import { useQuestion } from '../api/question';
import { migrations, nodes, plans, policies } from '../api/resources';
import { bytes, memory, plural } from '../lib/units';
import { basisOf, chosenOf, downtimeText, modeText, timeText, withForecasts, wrongDeadline } from '../model/forecast';
import type { Row } from '../model/machine';
import { readiness } from '../model/node';
import { Dialog } from './dialog';
import { Field } from './field';
import { useTell } from './tell';
import { ValuesTable } from './values';

const HOSTNAME = 'kubernetes.io/hostname';

/** What decides where a machine can go. */
const depends = [nodes, migrations, policies];
/** What is foretold is not asked again by itself. */
const nothing: [] = [];

const NodeTable = ({ plan, target, onChoose }: { plan: Plan; target: string | undefined; onChoose: (node: string) => void }) => (
  <Table aria-label="Nodes" variant="compact" gridBreakPoint="grid-md">
    <Thead>
      <Tr>
        <Th screenReaderText="Chosen" />
        <Th>Node</Th>
        <Th>Fits</Th>
        <Th modifier="nowrap">Free memory</Th>
        <Th modifier="nowrap">Takes</Th>
        <Th modifier="nowrap">Downtime</Th>
        <Th>Mode</Th>
        <Th>Why not</Th>
      </Tr>
    </Thead>
    <Tbody>
      {(plan.nodes ?? []).map((node) => {
        // That another node was asked for is no reason against this one: choosing it asks for it.
        const reasons = (node.reasons ?? []).filter((reason) => !(target !== undefined && target !== node.name && reason.includes(HOSTNAME)));
        const fits = reasons.length === 0;
        const forecast = fits ? chosenOf(node) : undefined;
        return (
          <Tr key={node.name}>
            <Td>
              <Radio
                id={`node-${node.name}`}
                name="node"
                aria-label={`Migrate to ${node.name}`}
                isDisabled={!fits}
                isChecked={target === node.name}
                onChange={() => onChoose(node.name)}
              />
            </Td>
            <Td dataLabel="Node">{node.name}</Td>
            <Td dataLabel="Fits">{fits ? 'Yes' : 'No'}</Td>
            <Td dataLabel="Free memory" className="numeric">
              {memory(node.freeBytes ?? 0)}
            </Td>
            <Td dataLabel="Takes" className="numeric">{forecast ? timeText(forecast) : '–'}</Td>
            <Td dataLabel="Downtime" className="numeric">{forecast ? downtimeText(forecast) : '–'}</Td>
            <Td dataLabel="Mode">{forecast ? modeText(forecast.mode) : '–'}</Td>
            <Td dataLabel="Why not" className="words">
              {fits ? '–' : reasons.join('; ')}
            </Td>
          </Tr>
        );
      })}
    </Tbody>
  </Table>
);

/** What would become of it at one node, by each means: what is taken, and what is forbidden or would not end. */
const Forecasts = ({ target }: { target: PlannedTarget }) => (
  <FormGroup label={`Foretold for ${target.name}`} fieldId="forecasts">
    <div id="forecasts" className="words">
      {[target.forecastReason, basisOf(target)].filter(Boolean).join('. ')}
    </div>
    <Table aria-label={`Forecasts for ${target.name}`} variant="compact" borders={false} gridBreakPoint="grid-md">
      <Thead>
        <Tr>
          <Th>Mode</Th>
          <Th modifier="nowrap">Takes</Th>
          <Th modifier="nowrap">Downtime</Th>
          <Th modifier="nowrap">Sent</Th>
          <Th modifier="nowrap">Work lost</Th>
          <Th>What is said</Th>
        </Tr>
      </Thead>
      <Tbody>
        {(target.forecasts ?? []).map((forecast) => (
          <Tr key={forecast.mode}>
            <Td dataLabel="Mode">{forecast.chosen ? <strong>{modeText(forecast.mode)}</strong> : modeText(forecast.mode)}</Td>
            <Td dataLabel="Takes" className="numeric">{timeText(forecast)}</Td>
            <Td dataLabel="Downtime" className="numeric">{downtimeText(forecast)}</Td>
            <Td dataLabel="Sent" className="numeric">{forecast.transferredBytes === undefined ? '–' : bytes(forecast.transferredBytes)}</Td>
            <Td dataLabel="Work lost" className="numeric">{forecast.lossPercent === undefined ? '–' : `${Math.round(forecast.lossPercent)} %`}</Td>
            <Td dataLabel="What is said" className="words">
              {forecast.forbidden ?? (forecast.chosen ? 'It would be taken' : '–')}
            </Td>
          </Tr>
        ))}
      </Tbody>
    </Table>
  </FormGroup>
);

/** What is left where the server answers no questions: Kubernetes' own. */
const Unforetold = ({ target, onChoose }: { target: string | undefined; onChoose: (node: string | undefined) => void }) => {
  const names = useAll(nodes).filter((node) => readiness(node) === 'Ready').map(({ metadata }) => metadata.name).sort();
  return (
    <>
      <Alert component="h2" isInline variant="info" title="This API server does not say beforehand what would become of it">
        <code>whimbrel plan</code> does. What is asked for waits where it cannot begin, and says why.
      </Alert>
      <FormGroup label="Where to" fieldId="where">
        <FormSelect id="where" value={target ?? ''} onChange={(_, name) => onChoose(name || undefined)}>
          <FormSelectOption value="" label="Automatic" />
          {names.map((name) => (
            <FormSelectOption key={name} value={name} label={name} />
          ))}
        </FormSelect>
      </FormGroup>
    </>
  );
};

/** Where to, and with which values; then the live view. */
export const MigrateDialog = ({ row, onClose }: { row: Row; onClose: () => void }) => {
  const fleet = useFleet();
  const navigate = useNavigate();
  const { attempt } = useTell();
  const [isNamed, setNamed] = useState(false);
  const [named, setNode] = useState<string>();
  const [deadline, setDeadline] = useState('');
  const [turn, setTurn] = useState(0);
  const { name, namespace = '' } = row.machine.metadata;
  const chosen = isNamed ? named : undefined;
  const addedNodeSelector = chosen === undefined ? {} : { [HOSTNAME]: chosen };
  const wrong = wrongDeadline(deadline);
  const own = deadline === '' || wrong ? {} : { deadlineSeconds: Number(deadline) };
  const { status: fits, problem, isAbsent = false } = useQuestion<Plan>(plans, { vmiName: name, addedNodeSelector, ...own }, depends, namespace);
  const { status: foretold, problem: unforetold } = useQuestion<Plan>(plans, { vmiName: name, forecast: true }, nothing, namespace, turn);
  const plan = fits && withForecasts(fits, foretold);
  const noForecast = unforetold ?? foretold?.noForecast;
  const target = plan?.nodes?.find((node) => node.name === (chosen ?? plan.targetNode));
  const migrate = () =>
    attempt(`The migration of ${name} was asked for`, `${name} is not migrated`, async () => {
      const spec = { vmiName: name, ...(chosen === undefined ? {} : { addedNodeSelector }), ...own };
      const made = await fleet.create(migrations, { metadata: { generateName: `${name}-` }, spec }, namespace);
      void navigate(`/migrations/${namespace}/${made.metadata.name}`);
    });
  const deadlineField = (
    <Field id="migration-deadline" label="Deadline of this migration, seconds" hint="When it is up, the policy’s workload disruption says what is done. 0: none. Empty: as the policy says." error={wrong}>
      <TextInput id="migration-deadline" inputMode="numeric" value={deadline} onChange={(_, text) => setDeadline(text)} />
    </Field>
  );
  return (
    <Dialog
      title={`Migrate ${name}`}
      description={`It runs on ${row.instance?.status?.nodeName ?? 'no node'} now, and goes on while it moves.`}
      verb="Migrate"
      variant="large"
      problem={isAbsent ? undefined : problem}
      isDisabled={(!plan && !isAbsent) || wrong !== undefined || (isNamed && named === undefined)}
      onConfirm={migrate}
      onClose={onClose}
    >
      {!plan && !problem && <Spinner aria-label="Asking what would become of it" />}
      {isAbsent && (
        <Form onSubmit={(event) => event.preventDefault()}>
          <Unforetold
            target={named}
            onChoose={(name) => {
              setNamed(name !== undefined);
              setNode(name);
            }}
          />
          {deadlineField}
        </Form>
      )}
      {plan && (
        <Form onSubmit={(event) => event.preventDefault()}>
          <FormGroup role="radiogroup" label="Where to" fieldId="where">
            <Radio
              id="automatic"
              name="where"
              label={`Automatic${!isNamed && plan.targetNode ? `: ${plan.targetNode} now` : ''}`}
              isChecked={!isNamed}
              onChange={() => setNamed(false)}
            />
            <Radio id="named" name="where" label="A named node" isChecked={isNamed} onChange={() => setNamed(true)} />
          </FormGroup>
          {isNamed && <NodeTable plan={plan} target={named} onChoose={setNode} />}
          {target?.forecasts && target.forecasts.length > 0 && <Forecasts target={target} />}
          {noForecast && !plan.whyNot && <Alert component="h2" isInline isPlain variant="info" title={`Nothing is foretold: ${noForecast}`} />}
          <FormGroup>
            <Button variant="link" isInline isDisabled={!foretold && !unforetold} onClick={() => setTurn(turn + 1)}>
              Foretell again
            </Button>
          </FormGroup>
          {plan.whyNot && (
            <Alert component="h2" isInline variant="info" title="It would not begin now">
              <span className="words">{plan.whyNot}. </span>
              It can be asked for all the same, and waits.
            </Alert>
          )}
          {(plan.ahead ?? 0) > 0 && <Alert component="h2" isInline isPlain variant="info" title={`${plural(plan.ahead ?? 0, 'migration waits', 'migrations wait')} already, and come first.`} />}
          {deadlineField}
          <FormGroup label="Policy" fieldId="policy">
            <div id="policy" className="words">
              <strong>{plan.migrationPolicyName ?? 'No MigrationPolicy'}</strong> ({plan.migrationPolicyReason})
            </div>
            <ValuesTable values={plan.migrationConfiguration ?? {}} origins={plan.origins ?? {}} />
          </FormGroup>
        </Form>
      )}
    </Dialog>
  );
};
