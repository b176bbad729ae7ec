//! A machine that exists in memory only: enough state to answer every command the way a real one does.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use address::Address;
use parking_lot::{Condvar, Mutex, MutexGuard};
use whimbrel_monitor::{
    CommandError, Events, Handler,
    types::{
        AnnounceParameters, BalloonInfo, BandwidthFrom, BlockDeviceStats, BlockStats, CpuInfoFast,
        DirtyLimitInfo, DirtyRateInfo, DirtyRateMode, DirtyRateRequest, DirtyRateStatus, DirtyRateVcpu,
        DumpInfo, DumpRequest, DumpStatus, KeyCode, MigrationCapability, MigrationCapabilityStatus,
        MigrationInfo, MigrationParameters, MigrationRamStats, MigrationStatus, NameInfo, ParameterChange,
        PredictedMachine, PredictedMode, PredictionInfo, PredictionRequest, PredictionStatus, RoundInfo,
        RunState, ShutdownCause, StatusInfo, ThreadInfo, UuidInfo, WhimbrelInfo,
    },
};

/// Bytes of memory that the machine pretends to have.
pub(crate) const MEMORY: u64 = 1 << 30;
/// How long a round of its migration takes.
const ROUND: Duration = Duration::from_millis(20);
const ROUNDS: u32 = 3;

type Outcome = Result<(), CommandError>;

/// The machine. Clones are the same machine.
#[derive(Clone)]
pub(crate) struct Machine {
    inner: Arc<Inner>,
}

struct Inner {
    events: Events,
    state: Mutex<State>,
    changed: Condvar,
}

/// What tests look at.
pub(crate) struct State {
    pub(crate) status: RunState,
    pub(crate) migration: MigrationInfo,
    pub(crate) parameters: MigrationParameters,
    pub(crate) capabilities: Vec<MigrationCapability>,
    pub(crate) balloon: u64,
    pub(crate) keys: Vec<u16>,
    pub(crate) held: Duration,
    pub(crate) announced: Option<AnnounceParameters>,
    pub(crate) incoming: Option<Address>,
    pub(crate) measured: Option<DirtyRateRequest>,
    pub(crate) limited: Option<(Option<u64>, u64)>,
    pub(crate) dumped: Option<DumpRequest>,
    pub(crate) predicted: Option<PredictionRequest>,
    pub(crate) quitting: bool,
    cancelled: bool,
    /// What the operator said of a migration with an unknown end.
    pub(crate) decided: Option<&'static str>,
    /// Whether there is anything to say about that.
    pub(crate) undecided: bool,
    /// What it was told of postcopy.
    pub(crate) postcopy: Vec<String>,
    released: bool,
}

impl Machine {
    /// A machine that runs.
    pub(crate) fn new(events: Events) -> Self {
        let state = State {
            status: RunState::Running,
            migration: MigrationInfo::default(),
            parameters: MigrationParameters::new(2),
            capabilities: Vec::new(),
            balloon: MEMORY,
            keys: Vec::new(),
            held: Duration::ZERO,
            announced: None,
            incoming: None,
            measured: None,
            limited: None,
            predicted: None,
            dumped: None,
            quitting: false,
            cancelled: false,
            decided: None,
            undecided: false,
            postcopy: Vec::new(),
            released: false,
        };
        Self { inner: Arc::new(Inner { events, state: Mutex::new(state), changed: Condvar::new() }) }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock()
    }

    /// Waits until a client says `quit`. False if none did within the time.
    pub(crate) fn wait_for_quit(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut state = self.state();
        while !state.quitting && !self.inner.changed.wait_until(&mut state, deadline).timed_out() {}
        state.quitting
    }

    fn is_migrating(state: &State) -> bool {
        state.migration.status.is_some_and(|status| !status.is_final())
    }

    fn enter(&self, state: &mut State, status: MigrationStatus) {
        self.inner.events.migration(status, || state.migration.status = Some(status));
    }

    fn halt(&self, state: &mut State, status: RunState) {
        if state.status == RunState::Running {
            self.inner.events.stop(|| {});
        }
        state.status = status;
    }

    /// The migration's thread: rounds, then the switchover, with a look at cancellation in each.
    fn migrate_away(self, destination: &Address) {
        let begun = Instant::now();
        let mut state = self.state();
        if matches!(destination, Address::Tcp { port: 1, .. }) {
            state.migration.error_desc =
                Some("Failed to connect to '127.0.0.1:1': Connection refused".to_owned());
            self.enter(&mut state, MigrationStatus::Failed);
            return;
        }
        for round in 1..=ROUNDS {
            self.inner.events.migration_pass(round);
            if round == 1 {
                self.enter(&mut state, MigrationStatus::Active);
            }
            state.migration.ram = Some(ram(round));
            state.migration.expected_downtime = Some(300);
            state
                .migration
                .whimbrel
                .get_or_insert_default()
                .rounds
                .push(RoundInfo { round, ..Default::default() });
            if self.interrupted(&mut state, ROUND, |_| false) {
                return;
            }
        }
        self.halt(&mut state, RunState::FinishMigrate);
        if state.capabilities.contains(&MigrationCapability::PauseBeforeSwitchover) {
            self.enter(&mut state, MigrationStatus::PreSwitchover);
            if self.interrupted(&mut state, Duration::from_secs(60), |state| state.released) {
                return;
            }
        }
        self.enter(&mut state, MigrationStatus::Device);
        state.status = RunState::Postmigrate;
        state.migration.total_time = u64::try_from(begun.elapsed().as_millis()).ok();
        state.migration.setup_time = Some(0);
        state.migration.expected_downtime = None;
        state.migration.downtime = Some(1);
        self.enter(&mut state, MigrationStatus::Completed);
    }

    /// Waits for the time, or until `done`. True if the migration was cancelled.
    fn interrupted(
        &self,
        state: &mut MutexGuard<'_, State>,
        time: Duration,
        done: impl Fn(&State) -> bool,
    ) -> bool {
        let deadline = Instant::now() + time;
        while !state.cancelled && !done(state) && !self.inner.changed.wait_until(state, deadline).timed_out()
        {
        }
        if state.cancelled {
            if state.status == RunState::FinishMigrate {
                state.status = RunState::Running;
                self.inner.events.resume(|| {});
            }
            self.enter(state, MigrationStatus::Cancelled);
        }
        state.cancelled
    }
}

fn ram(round: u32) -> MigrationRamStats {
    MigrationRamStats {
        transferred: u64::from(round) * 1_000_000,
        remaining: MEMORY - u64::from(round) * 1_000_000,
        total: MEMORY,
        dirty_sync_count: u64::from(round),
        page_size: 4096,
        mbps: 1234.5,
        ..Default::default()
    }
}

impl Handler for Machine {
    fn query_status(&self) -> StatusInfo {
        self.state().status.into()
    }

    fn stop(&self) -> Outcome {
        self.halt(&mut self.state(), RunState::Paused);
        Ok(())
    }

    fn cont(&self) -> Outcome {
        let mut state = self.state();
        if state.status == RunState::Postmigrate {
            return Err(CommandError::generic("The machine has moved away: it runs on the destination"));
        }
        if state.status != RunState::Running {
            state.status = RunState::Running;
            self.inner.events.resume(|| {});
        }
        Ok(())
    }

    fn system_powerdown(&self) -> Outcome {
        self.inner.events.powerdown();
        Ok(())
    }

    fn system_reset(&self) -> Outcome {
        self.inner.events.reset(ShutdownCause::HostQmpSystemReset);
        Ok(())
    }

    fn quit(&self) -> Outcome {
        self.inner.events.shutdown(ShutdownCause::HostQmpQuit);
        self.state().quitting = true;
        self.inner.changed.notify_all();
        Ok(())
    }

    fn migrate(&self, destination: &Address, _session: Option<&str>) -> Outcome {
        let mut state = self.state();
        if Self::is_migrating(&state) {
            return Err(CommandError::generic("There's a migration process in progress"));
        }
        state.migration = MigrationInfo { whimbrel: Some(WhimbrelInfo::default()), ..Default::default() };
        state.cancelled = false;
        state.released = false;
        self.enter(&mut state, MigrationStatus::Setup);
        let (machine, destination) = (self.clone(), destination.clone());
        thread::spawn(move || machine.migrate_away(&destination));
        Ok(())
    }

    fn migrate_incoming(&self, listen: &Address, _exit_on_error: bool) -> Outcome {
        let mut state = self.state();
        if state.incoming.is_some() {
            return Err(CommandError::generic("The incoming migration has already been started"));
        }
        state.migration.socket_address = Some(vec![listen.into()]);
        state.incoming = Some(listen.clone());
        Ok(())
    }

    fn migrate_cancel(&self) -> Outcome {
        self.state().cancelled = true;
        self.inner.changed.notify_all();
        Ok(())
    }

    fn migrate_continue(&self, wanted: MigrationStatus) -> Outcome {
        let mut state = self.state();
        let status = state.migration.status.unwrap_or(MigrationStatus::None);
        if status != wanted || status != MigrationStatus::PreSwitchover {
            return Err(CommandError::generic(format!("Migration not in expected state: {status}")));
        }
        state.released = true;
        self.inner.changed.notify_all();
        Ok(())
    }

    fn migrate_start_postcopy(&self) -> Outcome {
        self.state().postcopy.push("start".into());
        Ok(())
    }

    fn migrate_pause(&self) -> Outcome {
        self.state().postcopy.push("pause".into());
        Ok(())
    }

    fn migrate_resume(&self, destination: &Address) -> Outcome {
        self.state().postcopy.push(format!("resume {destination}"));
        Ok(())
    }

    fn migrate_recover(&self, listen: &Address) -> Outcome {
        self.state().postcopy.push(format!("recover {listen}"));
        Ok(())
    }

    fn may_decide(&self) -> Outcome {
        if self.state().undecided { Ok(()) } else { Err(CommandError::generic("There is nothing to decide")) }
    }

    fn take_back(&self) -> Outcome {
        self.state().decided = Some("take-back");
        Ok(())
    }

    fn let_go(&self) -> Outcome {
        self.state().decided = Some("let-go");
        Ok(())
    }

    fn query_migrate(&self) -> MigrationInfo {
        self.state().migration.clone()
    }

    fn migrate_set_capabilities(&self, capabilities: &[MigrationCapabilityStatus]) -> Outcome {
        if let Some(refused) =
            capabilities.iter().find(|c| c.state && c.capability == MigrationCapability::XColo)
        {
            return Err(CommandError::generic(format!("Capability {} is not supported", refused.capability)));
        }
        let mut state = self.state();
        for &MigrationCapabilityStatus { capability, state: on } in capabilities {
            state.capabilities.retain(|&c| c != capability);
            if on {
                state.capabilities.push(capability);
            }
        }
        Ok(())
    }

    fn query_migrate_capabilities(&self) -> Vec<MigrationCapability> {
        self.state().capabilities.clone()
    }

    fn migrate_set_parameters(&self, change: &ParameterChange) -> Outcome {
        self.state().parameters.apply(change);
        Ok(())
    }

    fn query_migrate_parameters(&self) -> MigrationParameters {
        self.state().parameters.clone()
    }

    fn dump_guest_memory(&self, request: &DumpRequest) -> Outcome {
        self.state().dumped = Some(request.clone());
        Ok(())
    }

    fn query_dump(&self) -> DumpInfo {
        DumpInfo { status: DumpStatus::Active, completed: 1 << 20, total: 3 << 20 }
    }

    fn calc_dirty_rate(&self, request: DirtyRateRequest) -> Outcome {
        self.state().measured = Some(request);
        Ok(())
    }

    fn query_dirty_rate(&self) -> DirtyRateInfo {
        let Some(request) = self.state().measured else { return DirtyRateInfo::default() };
        DirtyRateInfo {
            dirty_rate: Some(77),
            status: DirtyRateStatus::Measured,
            start_time: 5,
            calc_time: request.calc_time.as_secs(),
            sample_pages: request.sample_pages,
            mode: request.mode,
            vcpu_dirty_rate: (request.mode == DirtyRateMode::DirtyRing).then(|| {
                vec![DirtyRateVcpu { id: 0, dirty_rate: 70 }, DirtyRateVcpu { id: 1, dirty_rate: 7 }]
            }),
            ..DirtyRateInfo::default()
        }
    }

    fn set_vcpu_dirty_limit(&self, cpu: Option<u64>, rate: u64) -> Outcome {
        self.state().limited = Some((cpu, rate));
        Ok(())
    }

    fn query_vcpu_dirty_limit(&self) -> Vec<DirtyLimitInfo> {
        let Some((cpu, rate)) = self.state().limited.filter(|(_, rate)| *rate > 0) else { return Vec::new() };
        vec![DirtyLimitInfo { cpu_index: cpu.unwrap_or(0), limit_rate: rate, current_rate: 3 }]
    }

    fn whimbrel_predict(&self, request: PredictionRequest) -> Outcome {
        self.state().predicted = Some(request);
        Ok(())
    }

    fn query_whimbrel_prediction(&self) -> PredictionInfo {
        let Some(request) = self.state().predicted.clone() else { return PredictionInfo::default() };
        let mode = |mode: &str, ends, forbidden: Option<&str>| PredictedMode {
            mode: mode.into(),
            ends,
            total_time: 8150,
            downtime: 2.15,
            transferred: 805_000_000,
            cpu_seconds: 0.43,
            loss: 12.0,
            forbidden: forbidden.map(Into::into),
        };
        PredictionInfo {
            status: PredictionStatus::Predicted,
            id: None,
            machine: Some(PredictedMachine {
                memory: 1 << 30,
                empty: 256 << 20,
                working_set: 64 << 20,
                dirty_rate: 100 << 20,
                packed: 0.25,
            }),
            bandwidth: request.bandwidth,
            bandwidth_from: Some(BandwidthFrom::Given),
            modes: vec![mode("precopy", false, None), mode("postcopy", true, Some("postcopy-ram is off"))],
            choice: Some("precopy".into()),
            reason: Some("It does not end as it is set".into()),
            error_desc: None,
        }
    }

    fn announce_self(&self, announce: &AnnounceParameters) -> Outcome {
        self.state().announced = Some(*announce);
        Ok(())
    }

    fn query_blockstats(&self) -> Vec<BlockStats> {
        let stats =
            BlockDeviceStats { rd_bytes: 512, failed_wr_operations: 1, ..BlockDeviceStats::default() };
        vec![BlockStats { device: "disk0".to_owned(), node_name: "disk0".to_owned(), stats }]
    }

    fn query_balloon(&self) -> Result<BalloonInfo, CommandError> {
        Ok(BalloonInfo { actual: self.state().balloon })
    }

    fn balloon(&self, bytes: u64) -> Outcome {
        self.state().balloon = bytes.min(MEMORY);
        Ok(())
    }

    fn send_key(&self, keys: &[KeyCode], hold: Duration) -> Outcome {
        let mut state = self.state();
        state.keys.extend(keys.iter().map(|key| key.evdev()));
        state.held = hold;
        Ok(())
    }

    fn query_whimbrel_report(&self) -> Result<serde_json::Value, CommandError> {
        Ok(serde_json::json!({ "schema": 1 }))
    }

    fn query_name(&self) -> NameInfo {
        NameInfo { name: Some("toy".to_owned()) }
    }

    fn query_uuid(&self) -> UuidInfo {
        UuidInfo { uuid: "2b1e5d2c-6f0a-4b7e-9d55-0d6a7ce4f0aa".to_owned() }
    }

    fn query_whimbrel_threads(&self) -> Result<Vec<ThreadInfo>, CommandError> {
        Ok(vec![ThreadInfo { name: "mig-send-0".to_owned(), thread_id: 7 }])
    }

    fn query_cpus_fast(&self) -> Vec<CpuInfoFast> {
        (0..2).map(|index| CpuInfoFast::x86_64(index, std::process::id() + index)).collect()
    }
}
