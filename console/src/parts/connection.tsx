import { Alert, PageSection } from '@patternfly/react-core';
import { useCopy } from '../api/fleet';
import { instances, migrations, nodes } from '../api/resources';

/** Says when what is shown is not live any more. It goes by itself when the connection is back. */
export const ConnectionAlert = () => {
  const copies = [useCopy(instances), useCopy(migrations), useCopy(nodes)];
  const lost = copies.find(({ state, problem }) => state === 'lost' || (state === 'loading' && problem !== undefined));
  if (!lost) return null;
  return (
    <PageSection aria-label="Connection">
      <Alert component="h2" isInline variant="warning" title="The connection is lost; what is shown may be old. It is tried again.">
        {lost.problem}
      </Alert>
    </PageSection>
  );
};
