import { Button, Card, PageSection } from '@patternfly/react-core';
import { useNavigate } from 'react-router';
import { useCopy, useFleet } from '../api/fleet';
import type { Policy } from '../api/objects';
import { policies } from '../api/resources';
import { bandwidthText, matchesAll, valueText } from '../model/policy';
import { Labels } from '../parts/labels';
import { PolicyLink } from '../parts/links';
import type { Column } from '../parts/list-row';
import { ListTable } from '../parts/list-table';
import { View } from '../parts/page';
import { States } from '../parts/states';
import { Time } from '../parts/time';

const yes = (value: boolean | undefined): string => (value === undefined ? '–' : value ? 'Yes' : 'No');

const columns: Column<Policy>[] = [
  { name: 'Name', value: ({ metadata }) => metadata.name, cell: ({ metadata }) => <PolicyLink name={metadata.name} /> },
  { name: 'Bandwidth', cell: ({ spec }) => bandwidthText(spec?.bandwidthPerMigration) },
  { name: 'Auto-converge', value: ({ spec }) => yes(spec?.allowAutoConverge), cell: ({ spec }) => yes(spec?.allowAutoConverge) },
  { name: 'Post-copy', value: ({ spec }) => yes(spec?.allowPostCopy), cell: ({ spec }) => yes(spec?.allowPostCopy) },
  {
    name: 'Completion timeout',
    value: ({ spec }) => spec?.completionTimeoutPerGiB,
    cell: ({ spec }) => (spec?.completionTimeoutPerGiB === undefined ? '–' : valueText('completionTimeoutPerGiB', spec.completionTimeoutPerGiB)),
  },
  { name: 'Project labels', cell: ({ spec }) => <Labels labels={spec?.selectors?.namespaceSelector} /> },
  {
    name: 'VirtualMachineInstance labels',
    cell: ({ spec }) => (matchesAll(spec) ? 'Every instance' : <Labels labels={spec?.selectors?.virtualMachineInstanceSelector} />),
  },
  { name: 'Created', value: ({ metadata }) => metadata.creationTimestamp, cell: ({ metadata }) => <Time at={metadata.creationTimestamp} /> },
];

export const PoliciesPage = () => {
  const { rights } = useFleet();
  const navigate = useNavigate();
  const copy = useCopy(policies);
  const all = [...copy.objects.values()];
  const create = rights.administer ? <Button onClick={() => void navigate('/policies/~new')}>Create MigrationPolicy</Button> : undefined;
  return (
    <View
      title="MigrationPolicies"
      actions={create}
      hint="Where several apply, the one with most labels wins, then the one whose name comes first. What a policy leaves open is as the fleet’s settings say."
    >
      <PageSection aria-label="List of MigrationPolicies">
        <States copy={copy} isEmpty={all.length === 0} empty="There are no MigrationPolicies" hint={create ?? 'The fleet’s settings apply to every migration.'}>
          <Card>
            <ListTable label="MigrationPolicies" rows={all} keyOf={({ metadata }) => metadata.name} columns={columns} sort={['Name', 'asc']} empty="" />
          </Card>
        </States>
      </PageSection>
    </View>
  );
};
