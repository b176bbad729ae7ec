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

export type Readiness = 'Ready' | 'Not ready' | 'No agent';

/** On Kubernetes `Ready` is said by the kubelet, which knows nothing of machines: there an agent has a condition of its own. */
export const readiness = ({ status }: Node): Readiness => {
  const is = (name: string) => status?.conditions?.find(({ type }) => type === name)?.status;
  const agent = is('WhimbrelReady');
  if (agent !== undefined) return agent === 'True' ? 'Ready' : 'Not ready';
  // A kubelet says of its node more than that it is ready.
  if (is('MemoryPressure') !== undefined) return 'No agent';
  return is('Ready') === 'True' ? 'Ready' : 'Not ready';
};

/** What machines may have of a node, whose other resources are those of pods. */
const allocatable = ({ status }: Node, name: string): number => quantity(status?.allocatable?.[`whimbrel.dev/${name}`] ?? status?.allocatable?.[name]) ?? 0;

/** What runs on a node. */
export interface Use {
  machines: number;
  /** Bytes that its machines have. */
  used: number;
}

/** What runs on each node: there may be ten thousand machines, which change more rarely than their migrations. */
export const usesOf = (instances: readonly Instance[]): ReadonlyMap<string, Use> => {
  const uses = new Map<string, Use>();
  for (const { spec, status } of instances) {
    if (!status?.nodeName || status.phase === 'Succeeded' || status.phase === 'Failed') continue;
    const use = uses.get(status.nodeName) ?? { machines: 0, used: 0 };
    use.machines += 1;
    use.used += spec?.domain?.memory?.hugepages ? 0 : (quantity(spec?.domain?.memory?.guest) ?? 0);
    uses.set(status.nodeName, use);
  }
  return uses;
};

export const loads = (
  nodes: readonly Node[],
  uses: ReadonlyMap<string, Use>,
  migrations: readonly Migration[],
  rateOf: (migration: Migration) => number,
): Load[] => {
  const byName = new Map<string, Load>(
    nodes.map((node) => [
      node.metadata.name,
      {
        node,
        machines: uses.get(node.metadata.name)?.machines ?? 0,
        cpus: allocatable(node, 'cpu'),
        used: uses.get(node.metadata.name)?.used ?? 0,
        allocatable: allocatable(node, 'memory'),
        out: 0,
        in: 0,
        rateOut: 0,
        rateIn: 0,
      },
    ]),
  );
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
