use std::fmt;

use serde::{Deserialize, Serialize};

/// A feature of migration that can be switched on: QEMU's `MigrationCapability`. Which of them a machine can switch on is
/// its own business; it refuses the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MigrationCapability {
    /// Send changed pages as differences.
    Xbzrle,
    /// Pin all memory for RDMA.
    RdmaPinAll,
    /// Slow vCPUs until the migration converges.
    AutoConverge,
    /// Emit the events MIGRATION and MIGRATION_PASS.
    Events,
    /// Allow a switch to postcopy.
    PostcopyRam,
    /// COLO.
    XColo,
    /// Free pages on the source once they are sent (postcopy).
    ReleaseRam,
    /// The destination answers over the same connection.
    ReturnPath,
    /// Stop before the switchover until `migrate-continue`.
    PauseBeforeSwitchover,
    /// Several connections carry pages.
    Multifd,
    /// Migrate dirty bitmaps of disks.
    DirtyBitmaps,
    /// Measure how long faults wait in postcopy.
    PostcopyBlocktime,
    /// Take disks late.
    LateBlockActivate,
    /// Leave shared memory out.
    XIgnoreShared,
    /// Compare the machines' UUIDs.
    ValidateUuid,
    /// Save a snapshot while the machine runs.
    BackgroundSnapshot,
    /// Send straight from guest memory.
    ZeroCopySend,
    /// Pages that the guest waits for have a connection of their own (postcopy).
    PostcopyPreempt,
    /// The destination allows the switchover.
    SwitchoverAck,
    /// Limit each vCPU's dirty rate.
    DirtyLimit,
    /// Every page has a fixed place in a file.
    MappedRam,
}

impl MigrationCapability {
    /// All of them, in the order in which QEMU lists them.
    pub const ALL: [Self; 21] = [
        Self::Xbzrle,
        Self::RdmaPinAll,
        Self::AutoConverge,
        Self::Events,
        Self::PostcopyRam,
        Self::XColo,
        Self::ReleaseRam,
        Self::ReturnPath,
        Self::PauseBeforeSwitchover,
        Self::Multifd,
        Self::DirtyBitmaps,
        Self::PostcopyBlocktime,
        Self::LateBlockActivate,
        Self::XIgnoreShared,
        Self::ValidateUuid,
        Self::BackgroundSnapshot,
        Self::ZeroCopySend,
        Self::PostcopyPreempt,
        Self::SwitchoverAck,
        Self::DirtyLimit,
        Self::MappedRam,
    ];

    /// The capability of this name, such as `pause-before-switchover`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|capability| capability.to_string() == name)
    }
}

impl fmt::Display for MigrationCapability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// A capability and whether it is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationCapabilityStatus {
    /// Which one.
    pub capability: MigrationCapability,
    /// Whether it is on.
    pub state: bool,
}
