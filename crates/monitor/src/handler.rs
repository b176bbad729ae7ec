use std::time::Duration;

use address::Address;
use serde::{Deserialize, Serialize};

use crate::types::{
    AnnounceParameters, BalloonInfo, BlockStats, CpuInfoFast, DirtyLimitInfo, DirtyRateInfo,
    DirtyRateRequest, DumpInfo, DumpRequest, KeyCode, MigrationCapability, MigrationCapabilityStatus,
    MigrationInfo, MigrationParameters, MigrationStatus, NameInfo, ParameterChange, PredictionInfo,
    PredictionRequest, StatusInfo, ThreadInfo, UuidInfo,
};

/// What a machine can be asked and told: one method per command of QMP.
///
/// Methods are called on the threads that serve clients, several at a time. Arguments are typed and in range; whether a
/// command fits the state that the machine is in is for the handler to say. No method may wait for the guest, for a peer
/// or for a migration: a command that starts something long returns once it is started. The reply is sent after the
/// method returned, and after every event that it caused.
pub trait Handler: Send + Sync {
    /// `query-status`.
    fn query_status(&self) -> StatusInfo;

    /// `stop`: stops the vCPUs. Does nothing if they are stopped.
    fn stop(&self) -> Result<(), CommandError>;

    /// `cont`: lets the vCPUs run. Does nothing if they run. On a machine that waits for a migration it says that the
    /// machine shall run when it has arrived.
    fn cont(&self) -> Result<(), CommandError>;

    /// `system_powerdown`: presses the power button.
    fn system_powerdown(&self) -> Result<(), CommandError>;

    /// `system_reset`.
    fn system_reset(&self) -> Result<(), CommandError>;

    /// `quit`: asks the VMM to end. Returns before it ends, so that the reply can be sent; the VMM then calls
    /// [`Server::shutdown`](crate::Server::shutdown), which sends what is queued.
    fn quit(&self) -> Result<(), CommandError>;

    /// `migrate`: starts a migration to the address. When this returns, [`query_migrate`](Self::query_migrate) has a status,
    /// and it is that of this migration: clients poll it at once. `session` is what both sides call it, a UUID that no other
    /// migration has; one is made where none is said.
    fn migrate(&self, destination: &Address, session: Option<&str>) -> Result<(), CommandError>;

    /// `migrate-incoming`: starts to listen, on a machine that was told to wait for this command. With `exit_on_error`
    /// (QEMU's default) a migration that fails ends the VMM.
    fn migrate_incoming(&self, listen: &Address, exit_on_error: bool) -> Result<(), CommandError>;

    /// `migrate_cancel`: cancels the migration. Does nothing if there is none.
    fn migrate_cancel(&self) -> Result<(), CommandError>;

    /// `migrate-continue`: goes on from the state, which must be the one that the migration is in.
    fn migrate_continue(&self, state: MigrationStatus) -> Result<(), CommandError>;

    /// `migrate-start-postcopy`: the machine is to run at the destination now, its memory to follow.
    fn migrate_start_postcopy(&self) -> Result<(), CommandError>;

    /// `migrate-pause`: breaks the link of a migration whose machine runs at the destination and lacks pages. It is made again by
    /// [`migrate_resume`](Self::migrate_resume) alone.
    fn migrate_pause(&self) -> Result<(), CommandError>;

    /// `migrate` with `resume`, at the source: finds the destination again, at this address, whose machine lacks pages.
    fn migrate_resume(&self, destination: &Address) -> Result<(), CommandError>;

    /// `migrate-recover`, at the destination whose machine lacks pages: the source will come to this address.
    fn migrate_recover(&self, listen: &Address) -> Result<(), CommandError>;

    /// Whether it is unknown who has the machine, so that [`Self::take_back`] or [`Self::let_go`] may say so.
    ///
    /// # Errors
    /// There is nothing to decide, and why.
    fn may_decide(&self) -> Result<(), CommandError>;

    /// `whimbrel-take-back`: the machine runs on here. For a migration of which it is not known who has the machine.
    fn take_back(&self) -> Result<(), CommandError>;

    /// `whimbrel-let-go`: the machine is at the destination. For a migration of which it is not known who has the machine.
    fn let_go(&self) -> Result<(), CommandError>;

    /// `query-migrate`.
    fn query_migrate(&self) -> MigrationInfo;

    /// `migrate-set-capabilities`: all or none of them. The monitor switches the events MIGRATION and MIGRATION_PASS by
    /// itself when this returns `Ok`.
    fn migrate_set_capabilities(
        &self,
        capabilities: &[MigrationCapabilityStatus],
    ) -> Result<(), CommandError>;

    /// `query-migrate-capabilities`: the capabilities that are on. The monitor lists the others as off.
    fn query_migrate_capabilities(&self) -> Vec<MigrationCapability>;

    /// `migrate-set-parameters`: all or none of them.
    fn migrate_set_parameters(&self, change: &ParameterChange) -> Result<(), CommandError>;

    /// `query-migrate-parameters`.
    fn query_migrate_parameters(&self) -> MigrationParameters;

    /// `calc-dirty-rate`: starts to measure how fast the guest writes its memory.
    ///
    /// # Errors
    /// That is being measured, there is no machine here that could be, or a migration uses what the mode needs.
    fn calc_dirty_rate(&self, request: DirtyRateRequest) -> Result<(), CommandError>;

    /// `query-dirty-rate`: the measurement under way, or the last one.
    fn query_dirty_rate(&self) -> DirtyRateInfo;

    /// `set-vcpu-dirty-limit`: from here on this vCPU, or each of them, writes no more than so many MiB of memory in a second; 0, which is also
    /// `cancel-vcpu-dirty-limit`, lifts the limit.
    ///
    /// # Errors
    /// There is no such vCPU, no machine here, or what the machine writes is not known by vCPU.
    fn set_vcpu_dirty_limit(&self, cpu: Option<u64>, rate: u64) -> Result<(), CommandError>;

    /// `query-vcpu-dirty-limit`: the vCPUs that have a limit.
    fn query_vcpu_dirty_limit(&self) -> Vec<DirtyLimitInfo>;

    /// `whimbrel-predict`, Whimbrel's own: starts to look at the machine, to foretell a migration.
    ///
    /// # Errors
    /// That is being done, there is no machine here, or nothing is known of the way to the destination.
    fn whimbrel_predict(&self, request: PredictionRequest) -> Result<(), CommandError>;

    /// `query-whimbrel-prediction`: the prediction under way, or the last one.
    fn query_whimbrel_prediction(&self) -> PredictionInfo;

    /// `dump-guest-memory`: writes the machine to a core file. Stops it for that, if it runs. Returns when it is written, unless
    /// the client does not wait.
    fn dump_guest_memory(&self, request: &DumpRequest) -> Result<(), CommandError>;

    /// `query-dump`: the dump under way, or the last one.
    fn query_dump(&self) -> DumpInfo;

    /// `announce-self`: announces the machine to the network.
    fn announce_self(&self, announce: &AnnounceParameters) -> Result<(), CommandError>;

    /// `query-blockstats`: all disks, in order. Also those of a machine that is still to come.
    fn query_blockstats(&self) -> Vec<BlockStats>;

    /// `query-balloon`. An error if the machine has no balloon.
    fn query_balloon(&self) -> Result<BalloonInfo, CommandError>;

    /// `balloon`: asks the guest to make do with this many bytes, 1 or more. More than it has is all it has.
    fn balloon(&self, bytes: u64) -> Result<(), CommandError>;

    /// `send-key`: presses the keys in this order, and releases them in the opposite order after `hold`.
    fn send_key(&self, keys: &[KeyCode], hold: Duration) -> Result<(), CommandError>;

    /// `query-whimbrel-report`, Whimbrel's own: the report of the migration under way, or of the last one, with the members of
    /// `docs/report.schema.json`.
    fn query_whimbrel_report(&self) -> Result<serde_json::Value, CommandError>;

    /// `query-name`.
    fn query_name(&self) -> NameInfo;

    /// `query-uuid`.
    fn query_uuid(&self) -> UuidInfo;

    /// `query-cpus-fast`: all vCPUs, in order. Also those of a machine that is still to come, which have their threads already.
    fn query_cpus_fast(&self) -> Vec<CpuInfoFast>;

    /// `query-whimbrel-threads`, Whimbrel's own: all threads that the process has now, by their ids.
    fn query_whimbrel_threads(&self) -> Result<Vec<ThreadInfo>, CommandError>;
}

/// Why a command was not done. `desc` is a sentence for people; `class` is what programs may tell apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{desc}")]
pub struct CommandError {
    /// The class.
    pub class: ErrorClass,
    /// What happened, where, and what to do.
    pub desc: String,
}

impl CommandError {
    /// An error of the class that QEMU uses for nearly all.
    pub fn generic(desc: impl Into<String>) -> Self {
        Self { class: ErrorClass::GenericError, desc: desc.into() }
    }

    /// The machine lacks the device that the command is about.
    pub fn device_not_active(desc: impl Into<String>) -> Self {
        Self { class: ErrorClass::DeviceNotActive, desc: desc.into() }
    }

    /// There is no such command, or not yet.
    pub(crate) fn command_not_found(desc: impl Into<String>) -> Self {
        Self { class: ErrorClass::CommandNotFound, desc: desc.into() }
    }
}

/// QEMU's `QapiErrorClass`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorClass {
    /// No class of its own.
    GenericError,
    /// There is no such command.
    CommandNotFound,
    /// The machine lacks the device.
    DeviceNotActive,
    /// There is no device of this name.
    DeviceNotFound,
    /// KVM lacks a feature.
    KVMMissingCap,
}
