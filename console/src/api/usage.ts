/** What a machine uses of its host, as counters (`crates/node/src/usage.rs`). They begin anew with each VMM. */
export interface Usage {
  vmm: string;
  /** Seconds of the host's monotonic clock. */
  atSeconds: number;
  cpu: { vcpus: number; vcpuSeconds?: number; vmmSeconds: number };
  memory: { guestBytes?: number; touchedBytes: number; vmmBytes: number };
  storage?: { readBytes: number; writtenBytes: number };
  /** What the guest asked of each disk; absent where the VMM does not count it. */
  disks?: DiskUsage[];
  networks: { name: string; receivedBytes: number; sentBytes: number; receivedFrames: number; sentFrames: number }[];
  dirtyBytesPerSecond?: number;
}

/** Counters of one disk: what the guest asked for and got, the host's page cache included. */
export interface DiskUsage {
  name: string;
  path?: string;
  reads: number;
  writes: number;
  flushes: number;
  readBytes: number;
  writtenBytes: number;
  /** That the requests took, all together. */
  readSeconds: number;
  writeSeconds: number;
  flushSeconds: number;
  /** Requests of which the guest was told that they failed. */
  errors: number;
}
