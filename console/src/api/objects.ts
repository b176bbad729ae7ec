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
    devices?: { disks?: { name: string }[] };
    firmware?: { kernelBoot?: { kernelArgs?: string; container?: { image: string } } };
  };
  paused?: boolean;
  nodeSelector?: Record<string, string>;
  evictionStrategy?: string;
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
  retryLimit?: number;
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
  throttlePercent?: number;
  decisions?: { atMs: number; text: string }[];
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
  migrationConfigurationOrigins?: Record<string, Origin>;
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
  spec?: { vmiName?: string; addedNodeSelector?: Record<string, string>; deadlineSeconds?: number; priority?: string; cancel?: boolean };
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

export type Origin = 'Migration' | 'Policy' | 'Fleet' | 'Default';

/** What a migration by one means would be, by the engine's own calculation. */
export interface Forecast {
  mode: string;
  /** The one that would be taken. */
  chosen?: boolean;
  /** Whether it would end. */
  ends?: boolean;
  totalMs?: number;
  downtimeMs?: number;
  transferredBytes?: number;
  cpuSeconds?: number;
  /** How much of its work the guest loses meanwhile. */
  lossPercent?: number;
  /** Why the policy does not allow it. */
  forbidden?: string;
}

export interface PlannedTarget {
  name: string;
  fits?: boolean;
  reasons?: string[];
  freeBytes?: number;
  forecasts?: Forecast[];
  /** Bytes each second that it rests on, and from where that is known. */
  bandwidth?: number;
  bandwidthBasis?: string;
  forecastReason?: string;
}

export interface Plan {
  nodes?: PlannedTarget[];
  /** Why nothing is foretold. */
  noForecast?: string;
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

export const drainPhases = ['Pending', 'Draining', 'Paused', 'Succeeded', 'Failed', 'Cancelled'] as const;
export type DrainPhase = (typeof drainPhases)[number];

export interface BlockedMachine {
  namespace: string;
  name: string;
  node: string;
  reason?: string;
  message: string;
}

export interface DrainStep {
  namespace: string;
  name: string;
  sourceNode: string;
  targetNode: string;
  memoryBytes?: number;
  startSeconds?: number;
  seconds?: number;
  lastDowntimeMs?: number;
  basis?: string;
  movesAgain?: boolean;
  /** Its run ends instead: it is not to be migrated. */
  ended?: boolean;
}

export interface DrainSpec {
  nodes: string[];
  deadlineSeconds?: number;
  minAvailable?: number;
}

export interface Drain extends KubeObject {
  spec?: Partial<DrainSpec> & { paused?: boolean; cancel?: boolean };
  status?: {
    phase?: DrainPhase;
    startTimestamp?: string;
    endTimestamp?: string;
    deadlineTimestamp?: string;
    /** Those moved and left, and those that have ended. */
    machines?: number;
    moved?: number;
    moving?: number;
    left?: number;
    blocked?: number;
    concurrency?: number;
    etaSeconds?: number;
    nodes?: { name: string; phase?: 'Waiting' | 'Draining' | 'Drained'; cordoned?: boolean; moved?: number; left?: number; message?: string; startTimestamp?: string; endTimestamp?: string }[];
    blockedMachines?: BlockedMachine[];
    upcoming?: DrainStep[];
    conditions?: Condition[];
  };
}

export interface DrainPlan {
  machines?: number;
  concurrency?: number;
  etaSeconds?: number;
  inTime?: boolean;
  nodes?: { name: string; machines: number; waits?: boolean; whyNot?: string }[];
  steps?: DrainStep[];
  blocked?: number;
  blockedMachines?: BlockedMachine[];
}

/** How the control plane itself stands. */
export interface ControlPlane {
  version?: string;
  conditions?: Condition[];
}
