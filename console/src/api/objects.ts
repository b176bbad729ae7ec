/** The kinds of the API as far as the console reads them. What a server may leave out is optional: a status can be missing altogether. */

export interface Metadata {
  name: string;
  namespace?: string;
  uid?: string;
  resourceVersion?: string;
  generateName?: string;
  creationTimestamp?: string;
  deletionTimestamp?: string;
  labels?: Record<string, string>;
  annotations?: Record<string, string>;
}

export interface KubeObject {
  apiVersion?: string;
  kind?: string;
  metadata: Metadata;
}

export interface Condition {
  type: string;
  status: 'True' | 'False' | 'Unknown';
  reason?: string;
  message?: string;
  lastTransitionTime?: string;
}

export interface InstanceSpec {
  domain?: {
    cpu?: { cores?: number };
    memory?: { guest?: string; hugepages?: { pageSize?: string } };
    firmware?: { kernelBoot?: { kernelArgs?: string; container?: { image: string } } };
  };
  paused?: boolean;
  nodeSelector?: Record<string, string>;
}

export type RunStrategy = 'Always' | 'Halted' | 'Once' | 'RerunOnFailure';

export interface VirtualMachine extends KubeObject {
  spec?: {
    runStrategy?: RunStrategy;
    template?: { metadata?: { labels?: Record<string, string> }; spec?: InstanceSpec };
  };
  status?: { created?: boolean; ready?: boolean; printableStatus?: string; conditions?: Condition[] };
}

export interface Instance extends KubeObject {
  spec?: InstanceSpec;
  status?: {
    phase?: string;
    nodeName?: string;
    vmm?: string;
    reason?: string;
    conditions?: Condition[];
    migrationState?: MigrationState;
  };
}

export const phases = ['Pending', 'Scheduled', 'PreparingTarget', 'TargetReady', 'Running', 'Succeeded', 'Failed'] as const;
export type Phase = (typeof phases)[number];

export interface Values {
  allowAutoConverge?: boolean;
  allowPostCopy?: boolean;
  allowWorkloadDisruption?: boolean;
  bandwidthPerMigration?: string;
  completionTimeoutPerGiB?: number;
  deadlineSeconds?: number;
  maxDowntimeMs?: number;
  channels?: number;
}

export interface Progress {
  round?: number;
  percent?: number;
  etaMs?: number;
  note?: string;
  remainingBytes?: number;
  transferredBytes?: number;
  wireRate?: number;
  dirtyRate?: number;
  predictedDowntimeMs?: number;
}

export interface MigrationState {
  migrationUid?: string;
  startTimestamp?: string;
  endTimestamp?: string;
  sourceNode?: string;
  targetNode?: string;
  sourceVmm?: string;
  targetVmm?: string;
  mode?: 'PreCopy' | 'PostCopy' | 'Paused';
  completed?: boolean;
  failed?: boolean;
  failureReason?: string;
  failure?: { reason: string; message: string; advice?: string };
  abortRequested?: boolean;
  abortStatus?: 'Aborting' | 'Succeeded' | 'Failed';
  migrationPolicyName?: string;
  migrationPolicyReason?: string;
  migrationConfiguration?: Values;
  progress?: Progress;
  result?: {
    downtime?: { totalMs: number; phasesMs?: Record<string, number> };
    transferredBytes?: number;
    rounds?: number;
    setupMs?: number;
    totalMs?: number;
    session?: string;
  };
}

export interface Migration extends KubeObject {
  spec?: { vmiName?: string; addedNodeSelector?: Record<string, string>; cancel?: boolean };
  status?: {
    phase?: Phase;
    phaseTransitionTimestamps?: { phase: Phase; phaseTransitionTimestamp: string }[];
    conditions?: Condition[];
    migrationState?: MigrationState;
  };
}

export interface PolicySpec extends Values {
  selectors?: {
    namespaceSelector?: Record<string, string>;
    virtualMachineInstanceSelector?: Record<string, string>;
  };
}

export interface Policy extends KubeObject {
  spec?: PolicySpec;
}

export interface FleetSettings extends KubeObject {
  spec?: {
    configuration?: {
      migrations?: Values & {
        parallelMigrationsPerCluster?: number;
        parallelOutboundMigrationsPerNode?: number;
        parallelInboundMigrationsPerNode?: number;
      };
    };
  };
}

export interface Node extends KubeObject {
  spec?: { unschedulable?: boolean };
  status?: {
    conditions?: Condition[];
    allocatable?: Record<string, string>;
    addresses?: { type: string; address: string }[];
    nodeInfo?: { kubeletVersion?: string; kernelVersion?: string };
  };
}

export interface Event extends KubeObject {
  involvedObject?: { kind?: string; name?: string; namespace?: string; uid?: string };
  reason?: string;
  message?: string;
  type?: string;
  count?: number;
  firstTimestamp?: string;
  lastTimestamp?: string;
}

export type Origin = 'Policy' | 'Fleet' | 'Default';

export interface Plan {
  nodes?: { name: string; fits?: boolean; reasons?: string[]; freeBytes?: number }[];
  targetNode?: string;
  whyNot?: string;
  ahead?: number;
  migrationPolicyName?: string;
  migrationPolicyReason?: string;
  migrationConfiguration?: Values;
  origins?: Record<string, Origin>;
}

export interface PolicyPreview {
  instances?: number;
  applies?: number;
  changed?: number;
  changes?: {
    namespace: string;
    name: string;
    before?: string;
    after?: string;
    values?: { name: string; before?: string; after?: string }[];
  }[];
}
