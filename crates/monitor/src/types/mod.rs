//! The objects of QEMU's QMP schema that this monitor speaks of, with QEMU's names.
//!
//! Optional members that are `None` are left out, as QEMU leaves them out. Members that a peer sends and this crate does
//! not know are ignored, so that the client works with newer servers and with QEMU.

mod address;
mod block;
mod capability;
mod dirty_rate;
mod dump;
mod encodings;
mod ending;
mod keys;
mod machine;
mod migration;
mod parameters;
mod prediction;
mod status;
mod whimbrel;

pub use address::SocketAddress;
pub use block::{BlockDeviceStats, BlockStats};
pub use capability::{MigrationCapability, MigrationCapabilityStatus};
pub use dirty_rate::{
    DirtyLimitInfo, DirtyRateInfo, DirtyRateMode, DirtyRateRequest, DirtyRateStatus, DirtyRateVcpu, TimeUnit,
};
pub use dump::{DumpInfo, DumpRequest, DumpStatus};
pub use encodings::{
    Chooser, Compression, CompressionStats, EncodingChange, EncodingParameters, MAX_CACHE_BYTES,
    MIN_CACHE_BYTES, XbzrleCacheStats,
};
pub use ending::{
    DeadlineInfo, DecisionInfo, EndChange, EndParameters, MAX_DEADLINE_SECONDS, MEANS, ThrottleInfo,
    ThrottleWay, VcpuThrottleInfo,
};
pub use keys::{KeyCode, qcode_names};
pub use machine::{BalloonInfo, CpuInfoFast, NameInfo, QemuVersion, ThreadInfo, UuidInfo, VersionInfo};
pub use migration::{MigrationInfo, MigrationRamStats, MigrationStatus};
pub use parameters::{
    AnnounceParameters, Digest, MAX_CHANNELS, MigrationParameters, ParameterChange, Postcopy,
};
pub use prediction::{
    BandwidthFrom, PredictedMachine, PredictedMode, PredictionInfo, PredictionRequest, PredictionStatus,
};
pub use status::{BlockError, BlockErrorAction, BlockOperation, RunState, ShutdownCause, StatusInfo};
pub use whimbrel::{
    ArrivedInfo, CertificateInfo, DowntimePhases, FaultsInfo, MigrationGlobals, RoundInfo, SecurityInfo,
    WhimbrelInfo,
};
