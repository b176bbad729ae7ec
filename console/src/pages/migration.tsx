import { PageSection } from '@patternfly/react-core';
import { useParams } from 'react-router';
import { useCopy, useOne } from '../api/fleet';
import { migrations } from '../api/resources';
import { CancelMigration } from '../parts/cancel-migration';
import { PhaseLabel } from '../parts/labels';
import { MigrationView } from '../parts/migration-view';
import { View } from '../parts/page';
import { Missing } from '../parts/states';

/** A migration on a page of its own. */
export const MigrationPage = () => {
  const { namespace = '', name = '' } = useParams();
  const copy = useCopy(migrations);
  const migration = useOne(migrations, namespace, name);
  if (!migration) {
    return (
      <View title={name} parent={['/migrations', 'Migrations']}>
        <PageSection aria-label="Missing">
          <Missing copy={copy} what={`migration ${namespace}/${name}`} />
        </PageSection>
      </View>
    );
  }
  return (
    <View title={name} badge={<PhaseLabel migration={migration} />} parent={['/migrations', 'Migrations']} actions={<CancelMigration migration={migration} />}>
      <PageSection aria-label="Migration">
        <MigrationView key={`${namespace}/${name}`} migration={migration} />
      </PageSection>
    </View>
  );
};
