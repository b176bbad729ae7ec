import type { Instance, Migration, Node } from '../api/objects';
import { quantity } from '../lib/units';
import { isFinal, phaseOf, stateOf } from './migration';

/** A node with what runs on it and what moves. */
export interface Load {
  node: Node;
  machines: number;
  cpus: number;
  /** Bytes that its machines have, and that machines may have. */
  used: number;
  allocatable: number;
  out: number;
  in: number;
  /** Bytes each second. */
  rateOut: number;
  rateIn: number;
}

export const readiness = (node: Node): 'Ready' | 'Not ready' =>
  node.status?.conditions?.some(({ type, status }) => type === 'Ready' && status === 'True') ? 'Ready' : 'Not ready';

export const loads = (
  nodes: readonly Node[],
  instances: readonly Instance[],
  migrations: readonly Migration[],
  rateOf: (migration: Migration) => number,
): Load[] => {
  const byName = new Map<string, Load>(
    nodes.map((node) => [
      node.metadata.name,
      {
        node,
        machines: 0,
        cpus: quantity(node.status?.allocatable?.['cpu']) ?? 0,
        used: 0,
        allocatable: quantity(node.status?.allocatable?.['memory']) ?? 0,
        out: 0,
        in: 0,
        rateOut: 0,
        rateIn: 0,
      },
    ]),
  );
  for (const { spec, status } of instances) {
    const load = byName.get(status?.nodeName ?? '');
    if (!load || status?.phase === 'Succeeded' || status?.phase === 'Failed') continue;
    load.machines += 1;
    load.used += spec?.domain?.memory?.hugepages ? 0 : (quantity(spec?.domain?.memory?.guest) ?? 0);
  }
  for (const migration of migrations) {
    const phase = phaseOf(migration);
    if (isFinal(phase) || phase === 'Pending') continue;
    const { sourceNode = '', targetNode = '' } = stateOf(migration);
    const wire = rateOf(migration);
    const [source, target] = [byName.get(sourceNode), byName.get(targetNode)];
    if (source) {
      source.out += 1;
      source.rateOut += wire;
    }
    if (target) {
      target.in += 1;
      target.rateIn += wire;
    }
  }
  return [...byName.values()];
};
