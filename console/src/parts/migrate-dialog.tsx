import { Alert, Button, Form, FormGroup, Modal, ModalBody, ModalFooter, ModalHeader, Radio, Spinner } from '@patternfly/react-core';
import { Table, Tbody, Td, Th, Thead, Tr } from '@patternfly/react-table';
import { useEffect, useState } from 'react';
import { useNavigate } from 'react-router';
import { useCopy, useFleet } from '../api/fleet';
import type { KubeObject, Plan } from '../api/objects';
import { migrations, nodes, plans, policies } from '../api/resources';
import { memory, plural } from '../lib/units';
import type { Row } from '../model/machine';
import { useTell } from './tell';
import { ValuesTable } from './values';

const HOSTNAME = 'kubernetes.io/hostname';

/** What would become of a migration now, asked anew whenever something changes that it depends on. */
const usePlan = (row: Row, target: string | undefined): { plan?: Plan; problem?: string } => {
  const fleet = useFleet();
  const [answer, setAnswer] = useState<{ plan?: Plan; problem?: string }>({});
  const { name, namespace } = row.machine.metadata;
  const facts = [useCopy(nodes).objects, useCopy(migrations).objects, useCopy(policies).objects];
  const [nodeObjects, migrationObjects, policyObjects] = facts;
  useEffect(() => {
    let isOld = false;
    const addedNodeSelector = target === undefined ? {} : { [HOSTNAME]: target };
    fleet
      .create<KubeObject & { status?: Plan }>(plans, { spec: { vmiName: name, addedNodeSelector } }, namespace)
      .then(({ status }) => !isOld && setAnswer({ plan: status ?? {} }))
      .catch((error: unknown) => !isOld && setAnswer({ problem: error instanceof Error ? error.message : String(error) }));
    return () => {
      isOld = true;
    };
  }, [fleet, name, namespace, target, nodeObjects, migrationObjects, policyObjects]);
  return answer;
};

const NodeTable = ({ plan, target, onChoose }: { plan: Plan; target: string | undefined; onChoose: (node: string) => void }) => (
  <Table aria-label="Nodes" variant="compact" gridBreakPoint="grid-md">
    <Thead>
      <Tr>
        <Th screenReaderText="Chosen" />
        <Th>Node</Th>
        <Th>Fits</Th>
        <Th>Free memory</Th>
        <Th>Why not</Th>
      </Tr>
    </Thead>
    <Tbody>
      {(plan.nodes ?? []).map((node) => {
        // That another node was asked for is no reason against this one: choosing it asks for it.
        const reasons = (node.reasons ?? []).filter((reason) => !(target !== undefined && target !== node.name && reason.includes(HOSTNAME)));
        const fits = reasons.length === 0;
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
            <Td dataLabel="Why not" className="words">
              {fits ? '–' : reasons.join('; ')}
            </Td>
          </Tr>
        );
      })}
    </Tbody>
  </Table>
);

/** Where to, and with which values; then the live view. */
export const MigrateDialog = ({ row, onClose }: { row: Row; onClose: () => void }) => {
  const fleet = useFleet();
  const navigate = useNavigate();
  const { attempt } = useTell();
  const [isNamed, setNamed] = useState(false);
  const [target, setTarget] = useState<string>();
  const { plan, problem } = usePlan(row, isNamed ? target : undefined);
  const { name, namespace = '' } = row.machine.metadata;
  const chosen = isNamed ? target : undefined;
  const migrate = () =>
    attempt(`The migration of ${name} was asked for`, `${name} is not migrated`, async () => {
      const spec = { vmiName: name, ...(chosen === undefined ? {} : { addedNodeSelector: { [HOSTNAME]: chosen } }) };
      const made = await fleet.create(migrations, { metadata: { generateName: `${name}-` }, spec }, namespace);
      onClose();
      void navigate(`/migrations/${namespace}/${made.metadata.name}`);
    });
  return (
    <Modal isOpen variant="medium" onClose={onClose} aria-labelledby="migrate-title">
      <ModalHeader title={`Migrate ${name}`} labelId="migrate-title" description={`It runs on ${row.instance?.status?.nodeName ?? 'no node'} now, and goes on while it moves.`} />
      <ModalBody>
        {problem && <Alert component="h2" isInline variant="danger" title={problem} />}
        {!plan && !problem && <Spinner aria-label="Asking what would become of it" />}
        {plan && (
          <Form>
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
            {isNamed && <NodeTable plan={plan} target={target} onChoose={setTarget} />}
            {plan.whyNot && (
              <Alert component="h2" isInline variant="info" title="It would not begin now">
                <span className="words">{plan.whyNot}. </span>
                It can be asked for all the same, and waits.
              </Alert>
            )}
            {(plan.ahead ?? 0) > 0 && <Alert component="h2" isInline isPlain variant="info" title={`${plural(plan.ahead ?? 0, 'migration waits', 'migrations wait')} already, and come first.`} />}
            <FormGroup label="Policy" fieldId="policy">
              <div id="policy" className="words">
                <strong>{plan.migrationPolicyName ?? 'No MigrationPolicy'}</strong> ({plan.migrationPolicyReason})
              </div>
              <ValuesTable values={plan.migrationConfiguration ?? {}} origins={plan.origins ?? {}} />
            </FormGroup>
          </Form>
        )}
      </ModalBody>
      <ModalFooter>
        <Button isDisabled={!plan || (isNamed && target === undefined)} onClick={() => void migrate()}>
          Migrate
        </Button>
        <Button variant="link" onClick={onClose}>
          Cancel
        </Button>
      </ModalFooter>
    </Modal>
  );
};
