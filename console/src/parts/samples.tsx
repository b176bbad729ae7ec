import { useEffect, useState } from 'react';
import { useFleet } from '../api/fleet';
import type { Migration } from '../api/objects';
import { migrations } from '../api/resources';
import { record, type Sample } from '../model/history';

/** What a migration has said while its page was open. The API has only what it says now. */
export const useSamples = (migration: Migration | undefined): readonly Sample[] => {
  const fleet = useFleet();
  const key = migration ? `${migration.metadata.namespace ?? ''}/${migration.metadata.name}` : undefined;
  const [kept, setKept] = useState<{ key: string | undefined; samples: readonly Sample[] }>({ key, samples: [] });
  useEffect(() => {
    const mirror = fleet.mirror(migrations);
    const look = () => {
      const now = key === undefined ? undefined : mirror.snapshot().objects.get(key);
      if (!now) return;
      setKept((old) => {
        const samples = record(old.key === key ? old.samples : [], now, fleet.now());
        return samples === old.samples ? old : { key, samples };
      });
    };
    look();
    return mirror.subscribe(look);
  }, [fleet, key]);
  return kept.key === key ? kept.samples : [];
};
