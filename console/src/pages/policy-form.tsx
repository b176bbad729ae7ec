import {
  ActionGroup,
  Alert,
  Button,
  Card,
  CardBody,
  CardTitle,
  Checkbox,
  Form as PlainForm,
  FormSelect,
  FormSelectOption,
  Grid,
  GridItem,
  InputGroup,
  InputGroupItem,
  PageSection,
  TextInput,
} from '@patternfly/react-core';
import { useState } from 'react';
import { Navigate, useNavigate, useParams } from 'react-router';
import { stringify } from 'yaml';
import { useCopy, useFleet, useOne } from '../api/fleet';
import type { Policy } from '../api/objects';
import { policies } from '../api/resources';
import { wrongName } from '../model/machine';
import { type Choice, emptyForm, type Form, formOf, matchesAll, policyOf, specOfForm, wrong } from '../model/policy';
import { Field } from '../parts/field';
import { LabelInput } from '../parts/label-input';
import { View } from '../parts/page';
import { Preview, usePreview } from '../parts/policy-preview';
import { Missing } from '../parts/states';
import { useTell } from '../parts/tell';

type Texts = 'completionTimeoutPerGiB' | 'deadlineSeconds' | 'maxDowntimeMs' | 'channels';
type Choices = 'allowAutoConverge' | 'allowPostCopy' | 'allowWorkloadDisruption';

const numbers: [Texts, string, string][] = [
  ['completionTimeoutPerGiB', 'Completion timeout, seconds for each GiB', 'When it is up, see workload disruption. 0: never.'],
  ['deadlineSeconds', 'Deadline, seconds in all', 'The same, whatever the memory. 0: none.'],
  ['maxDowntimeMs', 'Downtime limit, milliseconds', 'How long the guest may stand still at the switchover.'],
  ['channels', 'Channels', 'Connections that carry memory, 1 to 64.'],
];
const choices: [Choices, string, string][] = [
  ['allowAutoConverge', 'Auto-converge', 'vCPUs may be slowed until the migration can complete.'],
  ['allowPostCopy', 'Post-copy', 'The machine may run at the target before all its memory is there.'],
  ['allowWorkloadDisruption', 'Workload disruption', 'When the time is up: Yes ends it at the expense of the guest, No gives it up. As post-copy where it is left open.'],
];
const units: [string, string][] = [
  ['Ki', 'KiB/s'],
  ['Mi', 'MiB/s'],
  ['Gi', 'GiB/s'],
  ['Ti', 'TiB/s'],
  ['Pi', 'PiB/s'],
  ['k', 'kB/s'],
  ['M', 'MB/s'],
  ['G', 'GB/s'],
  ['T', 'TB/s'],
  ['P', 'PB/s'],
  ['', 'B/s'],
];

const Fields = ({ form, set, isNew }: { form: Form; set: (change: Partial<Form>) => void; isNew: boolean }) => {
  const errors = wrong(form);
  return (
    <>
      <Field id="name" label="Name" hint="It cannot be changed later." error={form.name === '' || !isNew ? undefined : wrongName(form.name)}>
        <TextInput id="name" isRequired isDisabled={!isNew} value={form.name} onChange={(_, name) => set({ name })} />
      </Field>
      <Field id="description" label="Description" hint="For people.">
        <TextInput id="description" value={form.description} onChange={(_, description) => set({ description })} />
      </Field>
      <LabelInput id="projects" label="Project labels" hint="All of them must be on the namespace." labels={form.projectLabels} onChange={(projectLabels) => set({ projectLabels })} />
      <LabelInput id="instances" label="VirtualMachineInstance labels" hint="All of them must be on the instance." labels={form.instanceLabels} onChange={(instanceLabels) => set({ instanceLabels })} />
      <Field id="bandwidth" label="Bandwidth per migration" hint="0: unlimited. Empty: as the fleet’s settings say." error={errors.bandwidth}>
        <InputGroup>
          <InputGroupItem isFill>
            <TextInput id="bandwidth" inputMode="numeric" value={form.bandwidth} onChange={(_, bandwidth) => set({ bandwidth })} />
          </InputGroupItem>
          <InputGroupItem>
            <FormSelect aria-label="Unit of the bandwidth" value={form.bandwidthUnit} onChange={(_, bandwidthUnit) => set({ bandwidthUnit })}>
              {units.map(([value, name]) => (
                <FormSelectOption key={name} value={value} label={name} />
              ))}
            </FormSelect>
          </InputGroupItem>
        </InputGroup>
      </Field>
      {choices.map(([key, label, hint]) => (
        <Field key={key} id={key} label={label} hint={hint}>
          <FormSelect id={key} value={form[key]} onChange={(_, value) => set({ [key]: value as Choice })}>
            <FormSelectOption value="" label="As the fleet’s settings say" />
            <FormSelectOption value="yes" label="Yes" />
            <FormSelectOption value="no" label="No" />
          </FormSelect>
        </Field>
      ))}
      {numbers.map(([key, label, hint]) => (
        <Field key={key} id={key} label={label} hint={hint} error={errors[key]}>
          <TextInput id={key} inputMode="numeric" value={form[key]} onChange={(_, value) => set({ [key]: value })} />
        </Field>
      ))}
    </>
  );
};

/** `live` is the policy as it is now; what is typed is about the one that there was when the form was opened. */
const Editor = ({ live }: { live: Policy | undefined }) => {
  const fleet = useFleet();
  const navigate = useNavigate();
  const { attempt } = useTell();
  const [old, setOld] = useState(live);
  const [form, setForm] = useState<Form>(old ? formOf(old) : emptyForm);
  const isOld = old?.metadata.resourceVersion !== live?.metadata.resourceVersion;
  const reload = () => {
    setOld(live);
    if (live) setForm(formOf(live));
  };
  const [isSure, setSure] = useState(false);
  const spec = specOfForm(form);
  const preview = usePreview(form.name, spec);
  const isForAll = matchesAll(spec);
  // One that is there has a name that is right.
  const isReady = (old !== undefined || !wrongName(form.name)) && Object.keys(wrong(form)).length === 0 && (!isForAll || isSure);
  const policy = policyOf(form, old);
  const save = async () => {
    const work = () => (old ? fleet.replace(policies, policy) : fleet.create(policies, policy));
    if (await attempt(`${form.name} was saved`, `${form.name} was not saved`, work)) void navigate(`/policies/${encodeURIComponent(form.name)}`);
  };
  return (
    <Grid hasGutter>
      <GridItem lg={7}>
        <Card>
          <CardBody>
            <PlainForm
              onSubmit={(event) => {
                event.preventDefault();
                if (isReady) void save();
              }}
            >
              {isOld && (
                <Alert component="h2" isInline variant="info" title="It has changed meanwhile" actionLinks={<Button variant="link" onClick={reload}>Reload</Button>}>
                  What you typed is still here, and about the older version: saving it is refused.
                </Alert>
              )}
              <Fields form={form} set={(change) => setForm({ ...form, ...change })} isNew={!old} />
              {isForAll && (
                <Alert component="h2" isInline variant="warning" title="Without labels it applies to every machine that no other policy applies to">
                  <Checkbox id="sure" label="That is what I want" isChecked={isSure} onChange={(_, isOn) => setSure(isOn)} />
                </Alert>
              )}
              <ActionGroup>
                <Button type="submit" isDisabled={!isReady}>
                  {old ? 'Save' : 'Create'}
                </Button>
                <Button variant="link" onClick={() => void navigate(-1)}>
                  Cancel
                </Button>
              </ActionGroup>
            </PlainForm>
          </CardBody>
        </Card>
      </GridItem>
      <GridItem lg={5}>
        <Card>
          <CardTitle component="h2">What it would change</CardTitle>
          <CardBody>
            <Preview {...preview} />
          </CardBody>
          <CardTitle component="h2">As YAML</CardTitle>
          <CardBody>
            <pre className="scroll" tabIndex={0} role="region" aria-label="YAML">
              {stringify({ ...policy, metadata: { name: policy.metadata.name, annotations: policy.metadata.annotations } }, { lineWidth: 0 })}
            </pre>
          </CardBody>
        </Card>
      </GridItem>
    </Grid>
  );
};

export const PolicyFormPage = () => {
  const { name } = useParams();
  const { rights } = useFleet();
  const copy = useCopy(policies);
  const old = useOne(policies, '', name ?? '');
  if (!rights.administer) return <Navigate to="/policies" replace />;
  return (
    <View title={name ? `Edit ${name}` : 'Create MigrationPolicy'} parent={['/policies', 'MigrationPolicies']}>
      <PageSection aria-label="MigrationPolicy">{!name || old ? <Editor key={name ?? ''} live={name ? old : undefined} /> : <Missing copy={copy} what={`MigrationPolicy ${name}`} />}</PageSection>
    </View>
  );
};
