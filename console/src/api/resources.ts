import type { Drain, Event, FleetSettings, Instance, KubeObject, Migration, Node, Policy, VirtualMachine } from './objects';

/** A kind that can be listed and watched. */
export interface Resource<T extends KubeObject> {
  group: string;
  version: string;
  plural: string;
  kind: string;
  namespaced: boolean;
  /** Never set: it ties the type of the objects to the resource. */
  of?: T;
}

const ours = <T extends KubeObject>(plural: string, kind: string, namespaced: boolean): Resource<T> => ({
  group: 'whimbrel.dev',
  version: 'v1',
  plural,
  kind,
  namespaced,
});

export const machines = ours<VirtualMachine>('virtualmachines', 'VirtualMachine', true);
export const instances = ours<Instance>('virtualmachineinstances', 'VirtualMachineInstance', true);
export const migrations = ours<Migration>('virtualmachineinstancemigrations', 'VirtualMachineInstanceMigration', true);
export const policies = ours<Policy>('migrationpolicies', 'MigrationPolicy', false);
export const fleets = ours<FleetSettings>('fleets', 'Fleet', false);
export const plans = ours<KubeObject>('migrationplans', 'MigrationPlan', true);
export const previews = ours<KubeObject>('migrationpolicypreviews', 'MigrationPolicyPreview', false);
export const controlPlanes = ours<KubeObject>('controlplanereviews', 'ControlPlaneReview', false);
export const drains = ours<Drain>('nodedrains', 'NodeDrain', false);
export const drainPlans = ours<KubeObject>('nodedrainplans', 'NodeDrainPlan', false);
export const nodes: Resource<Node> = { group: '', version: 'v1', plural: 'nodes', kind: 'Node', namespaced: false };
export const events: Resource<Event> = { group: '', version: 'v1', plural: 'events', kind: 'Event', namespaced: true };
export const namespaces: Resource<KubeObject> = { group: '', version: 'v1', plural: 'namespaces', kind: 'Namespace', namespaced: false };

/** Where objects of a kind are; with a name, where one is. */
export const pathOf = (resource: Resource<KubeObject>, namespace?: string, name?: string): string => {
  const group = resource.group ? `/apis/${resource.group}` : '/api';
  const place = resource.namespaced && namespace !== undefined ? `/namespaces/${encodeURIComponent(namespace)}` : '';
  const one = name === undefined ? '' : `/${encodeURIComponent(name)}`;
  return `${group}/${resource.version}${place}/${resource.plural}${one}`;
};

export const apiVersion = (resource: Resource<KubeObject>): string =>
  resource.group ? `${resource.group}/${resource.version}` : resource.version;
