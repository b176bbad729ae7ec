import { Alert, List, ListItem, Spinner } from '@patternfly/react-core';
import { useEffect, useState } from 'react';
import { useCopy, useFleet } from '../api/fleet';
import type { KubeObject, PolicyPreview, PolicySpec } from '../api/objects';
import { instances, policies, previews } from '../api/resources';
import { plural } from '../lib/units';
import { type ValueName, valueNames } from '../model/policy';

export interface Answer {
  preview?: PolicyPreview | undefined;
  problem?: string | undefined;
}

/** What a policy would change, by the same words as `whimbrel policy try`. Asked a moment after the last key, and when machines change. */
export const usePreview = (name: string, spec: PolicySpec | undefined): Answer => {
  const fleet = useFleet();
  const [answer, setAnswer] = useState<Answer>({});
  const machines = useCopy(instances).objects.size;
  const others = useCopy(policies).objects;
  const text = JSON.stringify(spec ?? null);
  useEffect(() => {
    let isOld = false;
    const timer = setTimeout(() => {
      const policy = JSON.parse(text) as PolicySpec | null;
      fleet
        .create<KubeObject & { status?: PolicyPreview }>(previews, { spec: { policyName: name || 'new', ...(policy ? { policy } : {}) } })
        .then(({ status }) => !isOld && setAnswer({ preview: status ?? {} }))
        .catch((error: unknown) => !isOld && setAnswer({ problem: error instanceof Error ? error.message : String(error) }));
    }, 250);
    return () => {
      isOld = true;
      clearTimeout(timer);
    };
  }, [fleet, name, text, machines, others]);
  return answer;
};

/** Which machines it would apply to now, which other policy it would displace, and what changes. */
export const Preview = ({ preview, problem, isDeletion = false }: Answer & { isDeletion?: boolean }) => {
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
