/** What a machine uses of its host, as counters (`crates/node/src/usage.rs`). They begin anew with each VMM. */
export interface Usage {
  vmm: string;
  /** Seconds of the host's monotonic clock. */
  atSeconds: number;
  cpu: { vcpus: number; vcpuSeconds?: number; vmmSeconds: number };
  memory: { guestBytes?: number; touchedBytes: number; vmmBytes: number };
  storage?: { readBytes: number; writtenBytes: number };
  networks: { name: string; receivedBytes: number; sentBytes: number; receivedFrames: number; sentFrames: number }[];
  dirtyBytesPerSecond?: number;
}
