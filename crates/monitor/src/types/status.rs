use std::fmt;

use serde::{Deserialize, Serialize};

/// What `query-status` returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusInfo {
    /// Whether the vCPUs run.
    pub running: bool,
    /// Why they run or do not.
    pub status: RunState,
}

impl From<RunState> for StatusInfo {
    fn from(status: RunState) -> Self {
        Self { running: status == RunState::Running, status }
    }
}

/// The state of a machine as a whole: QEMU's `RunState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// Stopped by a debugger.
    Debug,
    /// Waiting for, or receiving, an incoming migration.
    Inmigrate,
    /// Stopped by an internal error of the VMM.
    InternalError,
    /// Stopped because a disk reported an error.
    IoError,
    /// Stopped by the operator.
    Paused,
    /// Stopped because it has moved away: it runs elsewhere.
    Postmigrate,
    /// Made, and never started yet.
    Prelaunch,
    /// Stopped for the last part of an outgoing migration.
    FinishMigrate,
    /// Stopped while a saved state is loaded.
    RestoreVm,
    /// The vCPUs run.
    Running,
    /// Stopped while a state is saved.
    SaveVm,
    /// The guest has shut down and the VMM stays.
    Shutdown,
    /// The guest sleeps (ACPI S3).
    Suspended,
    /// Stopped by a watchdog.
    Watchdog,
    /// The guest said that it panicked.
    GuestPanicked,
    /// Stopped for a COLO checkpoint (QEMU only).
    Colo,
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// What the event BLOCK_IO_ERROR says, as QEMU does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockError {
    /// The disk: `disk0` and so on.
    pub device: String,
    /// What failed.
    pub operation: BlockOperation,
    /// What was done about it.
    pub action: BlockErrorAction,
    /// Whether there is no space left for what was written.
    pub nospace: bool,
    /// What the host's system said, for people.
    pub reason: String,
}

/// A kind of request to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BlockOperation {
    /// It reads.
    Read,
    /// It changes the disk, or flushes it.
    Write,
}

/// What was done about a request that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BlockErrorAction {
    /// Nothing: the guest was told that all is well (QEMU only).
    Ignore,
    /// The guest was told of an error.
    Report,
    /// The machine is stopped; `cont` tries again.
    Stop,
}

/// Why a machine shuts down or resets, in the events SHUTDOWN and RESET: QEMU's `ShutdownCause`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShutdownCause {
    /// No reason is known.
    None,
    /// The host or the VMM failed.
    HostError,
    /// The monitor command `quit`.
    HostQmpQuit,
    /// The monitor command `system_reset`.
    HostQmpSystemReset,
    /// The VMM received SIGTERM, SIGINT or SIGHUP.
    HostSignal,
    /// A user interface asked for it (QEMU only).
    HostUi,
    /// The guest powered itself off.
    GuestShutdown,
    /// The guest reset itself.
    GuestReset,
    /// The guest panicked.
    GuestPanic,
    /// A part of the machine reset itself (QEMU only).
    SubsystemReset,
    /// A snapshot is loaded (QEMU only).
    SnapshotLoad,
}

impl ShutdownCause {
    /// Whether the guest itself asked for it.
    pub fn by_guest(self) -> bool {
        matches!(self, Self::GuestShutdown | Self::GuestReset | Self::GuestPanic)
    }
}
