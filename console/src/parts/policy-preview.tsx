import { Alert, List, ListItem, Spinner } from '@patternfly/react-core';
import type { PolicyPreview, PolicySpec } from '../api/objects';
import { type Answer, useQuestion } from '../api/question';
import { instances, namespaces, policies, previews } from '../api/resources';
import { plural } from '../lib/units';
import { type ValueName, valueNames } from '../model/policy';

/** What decides whom a policy applies to. */
const depends = [instances, policies, namespaces];

/** What a policy would change, by the same words as `whimbrel policy try`. */
export const usePreview = (name: string, policy: PolicySpec | undefined): Answer<PolicyPreview> =>
  useQuestion(previews, { policyName: name || 'new', ...(policy ? { policy } : {}) }, depends);

/** Which machines it would apply to now, which other policy it would displace, and what changes. */
export const Preview = ({ status: preview, problem, isAbsent = false, isDeletion = false }: Answer<PolicyPreview> & { isDeletion?: boolean }) => {
  if (isAbsent) return <Alert component="h2" isInline variant="info" title="This API server does not say it; whimbrel policy try does." />;
  if (problem) return <Alert component="h2" isInline variant="warning" title={problem} />;
  if (!preview) return <Spinner size="md" aria-label="Asking what would change" />;
  const { applies = 0, instances: all = 0, changed = 0, changes = [] } = preview;
  const displaced = [...new Set(changes.filter(({ before, after }) => before && before !== after).map(({ before }) => before))];
  return (
    <div role="status">
      {!isDeletion && (
        <p>
          It would apply to {applies} of {plural(all, 'instance')} now.
        </p>
      )}
      <p>{changed === 0 ? 'Nothing would change for machines that run now.' : `Something would change for ${plural(changed, 'instance')}:`}</p>
      {!isDeletion && displaced.length > 0 && <Alert component="h2" isInline isPlain variant="warning" title={`It displaces ${displaced.join(', ')}`} />}
      <List>
        {changes.slice(0, 10).map(({ namespace, name, before, after, values = [] }) => (
          <ListItem key={`${namespace}/${name}`} className="words">
            {namespace}/{name}: policy {before ?? 'none'} → {after ?? 'none'}
            {values.map((value) => `; ${valueNames[value.name as ValueName] ?? value.name} ${value.before ?? 'unset'} → ${value.after ?? 'unset'}`)}
          </ListItem>
        ))}
        {changed > 10 && <ListItem>and {changed - 10} more</ListItem>}
      </List>
    </div>
  );
};
