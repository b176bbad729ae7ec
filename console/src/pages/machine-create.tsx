import { ActionGroup, Alert, Button, Card, CardBody, CardTitle, Form, FormGroup, FormSelect, FormSelectOption, Grid, GridItem, PageSection, TextArea, TextInput } from '@patternfly/react-core';
import { useState } from 'react';
import { Navigate, useNavigate } from 'react-router';
import { stringify } from 'yaml';
import { useAll, useFleet } from '../api/fleet';
import { machines, namespaces } from '../api/resources';
import { emptyMachine, machineOf, type MachineForm, wrongMachine } from '../model/machine-form';
import { objectOf } from '../model/yaml';
import { Field } from '../parts/field';
import { LabelInput } from '../parts/label-input';
import { machinePath } from '../parts/links';
import { View } from '../parts/page';
import { useTell } from '../parts/tell';

const texts: [keyof MachineForm & ('name' | 'cores' | 'memory' | 'arguments'), string, string][] = [
  ['name', 'Name', 'Lower-case letters, digits, ‘-’ and ‘.’.'],
  ['cores', 'CPU', '1 to 64 processors.'],
  ['memory', 'Memory', 'With a unit, in multiples of 2Mi: 512Mi, 4Gi.'],
  ['arguments', 'Arguments of the kernel', 'Of the workload guest: how much it works on, and how fast it writes.'],
];

/** A machine from a form, with its YAML beside it. What is typed into the YAML counts from then on. */
const Editor = () => {
  const fleet = useFleet();
  const navigate = useNavigate();
  const { attempt } = useTell();
  const places = useAll(namespaces);
  const [form, setForm] = useState(emptyMachine);
  const [yaml, setYaml] = useState<string>();
  const errors = wrongMachine(form);
  const text = yaml ?? stringify(machineOf(form), { lineWidth: 0 });
  const set = (change: Partial<MachineForm>) => {
    setForm({ ...form, ...change });
    setYaml(undefined);
  };
  const create = () =>
    attempt('The machine was created', 'The machine was not created', async () => {
      const object = objectOf(text);
      const made = await fleet.create(machines, object, object.metadata.namespace ?? 'default');
      void navigate(machinePath(made.metadata.namespace ?? '', made.metadata.name));
    });
  return (
    <Grid hasGutter>
      <GridItem lg={6}>
        <Card>
          <CardBody>
            <Form
              onSubmit={(event) => {
                event.preventDefault();
                void create();
              }}
            >
              {yaml !== undefined && (
                <Alert component="h2" isInline variant="info" title="The YAML was changed by hand, and counts" actionLinks={<Button variant="link" onClick={() => setYaml(undefined)}>Back to the form</Button>} />
              )}
              <FormGroup label="Namespace" fieldId="namespace">
                <FormSelect id="namespace" value={form.namespace} onChange={(_, namespace) => set({ namespace })}>
                  {places.map(({ metadata }) => (
                    <FormSelectOption key={metadata.name} value={metadata.name} label={metadata.name} />
                  ))}
                </FormSelect>
              </FormGroup>
              {texts.map(([key, label, hint]) => (
                <Field key={key} id={key} label={label} hint={hint} error={form[key] === '' ? undefined : errors[key]}>
                  <TextInput id={key} value={form[key]} onChange={(_, value) => set({ [key]: value })} />
                </Field>
              ))}
              <LabelInput id="labels" label="Labels" hint="On the instance: policies choose by them." labels={form.labels} onChange={(labels) => set({ labels })} />
              <ActionGroup>
                <Button type="submit" isDisabled={yaml === undefined && Object.keys(errors).length > 0}>
                  Create
                </Button>
                <Button variant="link" onClick={() => void navigate('/machines')}>
                  Cancel
                </Button>
              </ActionGroup>
            </Form>
          </CardBody>
        </Card>
      </GridItem>
      <GridItem lg={6}>
        <Card>
          <CardTitle component="h2">As YAML</CardTitle>
          <CardBody className="yaml">
            <TextArea aria-label="YAML of the machine" spellCheck={false} value={text} onChange={(_, value) => setYaml(value)} />
          </CardBody>
        </Card>
      </GridItem>
    </Grid>
  );
};

export const MachineCreatePage = () => {
  const { rights } = useFleet();
  if (!rights.operate) return <Navigate to="/machines" replace />;
  return (
    <View title="Create VirtualMachine" parent={['/machines', 'VirtualMachines']}>
      <PageSection aria-label="VirtualMachine">
        <Editor />
      </PageSection>
    </View>
  );
};
