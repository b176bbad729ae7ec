import { Button, Card, CardBody, CardTitle, Flex, PageSection, Tab, Tabs, TabTitleText } from '@patternfly/react-core';
import { useState } from 'react';
import { useNavigate, useParams } from 'react-router';
import { useCopy, useFleet, useOne } from '../api/fleet';
import type { Policy } from '../api/objects';
import { policies } from '../api/resources';
import { plural } from '../lib/units';
import { matchesAll, type ValueName, valueNames, valueText } from '../model/policy';
import { Confirm } from '../parts/confirm';
import { Facts } from '../parts/facts';
import { Labels } from '../parts/labels';
import { View } from '../parts/page';
import { Preview, usePreview } from '../parts/policy-preview';
import { Missing } from '../parts/states';
import { useTell } from '../parts/tell';
import { Time } from '../parts/time';
import { YamlEditor } from '../parts/yaml';

/** Whom it applies to now. */
const Reach = ({ policy: { metadata, spec } }: { policy: Policy }) => {
  const { status, problem } = usePreview(metadata.name, spec);
  return (
    <Card>
      <CardTitle component="h2">Applies to</CardTitle>
      <CardBody>{status ? `${status.applies ?? 0} of ${plural(status.instances ?? 0, 'instance')} now` : (problem ?? 'Asking')}</CardBody>
    </Card>
  );
};

const Details = ({ policy }: { policy: Policy }) => {
  const { spec = {}, metadata } = policy;
  return (
    <Card>
      <CardTitle component="h2">Details</CardTitle>
      <CardBody>
        <Facts
          facts={[
            ['Name', metadata.name],
            ['Description', metadata.annotations?.['description']],
            ...(Object.keys(valueNames) as ValueName[]).map((name): [string, string] => [
              valueNames[name],
              spec[name] === undefined ? 'As the fleet’s settings say' : valueText(name, spec[name]),
            ]),
            ['Project labels', <Labels key="project" labels={spec.selectors?.namespaceSelector} />],
            ['VirtualMachineInstance labels', matchesAll(spec) ? 'None: it applies to every instance that no other policy applies to' : <Labels key="instance" labels={spec.selectors?.virtualMachineInstanceSelector} />],
            ['Created', <Time key="created" at={metadata.creationTimestamp} />],
          ]}
        />
      </CardBody>
    </Card>
  );
};

const DeletePolicy = ({ policy, onClose }: { policy: Policy; onClose: () => void }) => {
  const fleet = useFleet();
  const navigate = useNavigate();
  const { attempt } = useTell();
  const { name } = policy.metadata;
  const preview = usePreview(name, undefined);
  return (
    <Confirm
      title={`Delete ${name}?`}
      verb="Delete"
      onClose={onClose}
      onConfirm={async () => {
        const isDone = await attempt(`${name} was deleted`, `${name} was not deleted`, () => fleet.remove(policies, policy));
        if (isDone) void navigate('/policies');
        return isDone;
      }}
    >
      Migrations that are under way keep their values. <Preview {...preview} isDeletion />
    </Confirm>
  );
};

export const PolicyPage = () => {
  const { name = '' } = useParams();
  const { rights } = useFleet();
  const navigate = useNavigate();
  const copy = useCopy(policies);
  const policy = useOne(policies, '', name);
  const [tab, setTab] = useState<string | number>('details');
  const [isDeleting, setDeleting] = useState(false);
  if (!policy) {
    return (
      <View title={name} parent={['/policies', 'MigrationPolicies']}>
        <PageSection aria-label="Missing">
          <Missing copy={copy} what={`MigrationPolicy ${name}`} />
        </PageSection>
      </View>
    );
  }
  const actions = rights.administer && (
    <Flex>
      <Button variant="secondary" onClick={() => void navigate(`/policies/${encodeURIComponent(name)}/edit`)}>
        Edit
      </Button>
      <Button variant="danger" onClick={() => setDeleting(true)}>
        Delete
      </Button>
    </Flex>
  );
  return (
    <View title={name} parent={['/policies', 'MigrationPolicies']} actions={actions}>
      <PageSection aria-label="MigrationPolicy">
        <Tabs activeKey={tab} onSelect={(_, key) => setTab(key)} aria-label="Parts of the policy">
          <Tab eventKey="details" title={<TabTitleText>Details</TabTitleText>}>
            <div className="tabs-body">{tab === 'details' && (
                <>
                  <Details policy={policy} />
                  <Reach policy={policy} />
                </>
              )}</div>
          </Tab>
          <Tab eventKey="yaml" title={<TabTitleText>YAML</TabTitleText>}>
            <div className="tabs-body">{tab === 'yaml' && <YamlEditor resource={policies} object={policy} mayEdit={rights.administer} />}</div>
          </Tab>
        </Tabs>
      </PageSection>
      {isDeleting && <DeletePolicy policy={policy} onClose={() => setDeleting(false)} />}
    </View>
  );
};
