import type { Migration } from '../api/objects';
import { isFinal, phaseOf, stateOf } from './migration';

/** Over how long a rate is taken, in milliseconds: some of the updates that come once a second. */
const WINDOW = 5000;
/** After so long without news a rate is not known any more. */
const SILENCE = 15_000;

interface Point {
  at: number;
  sent: number;
}

/**
 * True rates on the wire: what was sent between two updates by the time between them. The engine's own figure is that of the last whole round,
 * and there is none in the first one, which is the longest.
 */
export class Meter {
  private readonly points = new Map<string, Point[]>();

  /** Looks at all migrations as they are now. */
  see(migrations: Iterable<Migration>, at: number): void {
    for (const migration of migrations) {
      const key = keyOf(migration);
      const sent = stateOf(migration).progress?.transferredBytes;
      if (isFinal(phaseOf(migration)) || sent === undefined) {
        this.points.delete(key);
        continue;
      }
      const points = this.points.get(key) ?? [];
      if (points.at(-1)?.sent === sent) continue;
      // A migration that begins again sends from 0.
      const rest = (points.at(-1)?.sent ?? 0) > sent ? [] : points.filter((point) => point.at >= at - WINDOW);
      this.points.set(key, [...(rest.length > 0 ? rest : points.slice(-1).filter((point) => point.sent <= sent)), { at, sent }]);
    }
  }

  /** Bytes each second of a migration that is under way; 0 where nothing moves, or nothing is known yet. */
  rateOf(migration: Migration, now: number): number {
    if (phaseOf(migration) !== 'Running') return 0;
    const points = this.points.get(keyOf(migration)) ?? [];
    const [first, last] = [points[0], points.at(-1)];
    if (!first || !last || last.at <= first.at) return stateOf(migration).progress?.wireRate ?? 0;
    return now - last.at > SILENCE ? 0 : ((last.sent - first.sent) / (last.at - first.at)) * 1000;
  }
}

const keyOf = ({ metadata }: Migration): string => metadata.uid ?? `${metadata.namespace ?? ''}/${metadata.name}`;
