import type { KubeObject } from './objects';

/** A line of a watch. */
export interface Change<T> {
  type: 'ADDED' | 'MODIFIED' | 'DELETED' | 'BOOKMARK' | 'ERROR';
  object: T;
}

/** Objects by namespace and name. A new map for each change, so that views see that something changed. */
export type Objects<T> = ReadonlyMap<string, T>;

export const keyOf = (object: KubeObject): string => `${object.metadata.namespace ?? ''}/${object.metadata.name}`;

export const fromList = <T extends KubeObject>(items: readonly T[]): Objects<T> =>
  new Map(items.map((item) => [keyOf(item), item]));

/** What objects become by changes; the same map where nothing changed. */
export const apply = <T extends KubeObject>(objects: Objects<T>, changes: readonly Change<T>[]): Objects<T> => {
  const real = changes.filter(({ type }) => type === 'ADDED' || type === 'MODIFIED' || type === 'DELETED');
  if (real.length === 0) return objects;
  const next = new Map(objects);
  for (const { type, object } of real) {
    if (type === 'DELETED') next.delete(keyOf(object));
    else next.set(keyOf(object), object);
  }
  return next;
};

/** Cuts text that comes in pieces into lines; what is behind the last line end waits for more. */
export class Lines {
  private rest = '';

  push(piece: string): string[] {
    const parts = (this.rest + piece).split('\n');
    this.rest = parts.pop() ?? '';
    return parts.filter((line) => line.trim() !== '');
  }
}

/** How long to wait before the next try, in milliseconds: longer each time, up to 10 s. */
export const backoff = (failures: number): number => Math.min(10_000, 250 * 2 ** Math.min(failures, 10));
