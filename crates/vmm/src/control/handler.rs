use std::{sync::Arc, time::Duration};

use migration::source::Verdict;
use monitor::{
    CommandError, Handler,
    types::{
        AnnounceParameters, BalloonInfo, BlockStats, CpuInfoFast, DirtyLimitInfo, DirtyRateInfo,
        DirtyRateRequest, DumpInfo, DumpRequest, KeyCode, MigrationCapability, MigrationCapabilityStatus,
        MigrationInfo, MigrationParameters, MigrationStatus, NameInfo, ParameterChange, PredictionInfo,
        PredictionRequest, RunState, ShutdownCause, StatusInfo, ThreadInfo, UuidInfo,
    },
};
use transport::Address;

use super::{Control, announce, outgoing, query, security, storage, threads};
use crate::Keep;

/// The commands of the monitor, for one machine.
#[derive(Clone, Debug)]
pub struct Commands(pub Arc<Control>);

impl Handler for Commands {
    fn query_status(&self) -> StatusInfo {
        self.0.state().into()
    }

    fn stop(&self) -> Result<(), CommandError> {
        self.0.pause()
    }

    fn cont(&self) -> Result<(), CommandError> {
        self.0.resume()
    }

    fn system_powerdown(&self) -> Result<(), CommandError> {
        let (_turn, machine) = self.0.to_change()?;
        machine.power_button();
        self.0.events.powerdown();
        Ok(())
    }

    fn system_reset(&self) -> Result<(), CommandError> {
        self.0.reset(ShutdownCause::HostQmpSystemReset)
    }

    fn quit(&self) -> Result<(), CommandError> {
        self.0.ask_to_end(ShutdownCause::HostQmpQuit)
    }

    fn migrate(&self, destination: &Address, session: Option<&str>) -> Result<(), CommandError> {
        let destination = destination.clone();
        let session = outgoing::session(session)?;
        self.0.launch(move |control| control.depart(destination, session))
    }

    fn migrate_incoming(&self, listen: &Address, _exit_on_error: bool) -> Result<(), CommandError> {
        // An attempt that fails leaves the destination as it was, listening: there is no reason to end the process.
        self.0.listen(listen)
    }

    fn migrate_cancel(&self) -> Result<(), CommandError> {
        if self.0.is_undecided() {
            return Err(CommandError::generic(
                "It is too late to cancel: the destination was told to run the machine, and has not been heard since. \
                 `info migrate` says what to do",
            ));
        }
        self.0.refuse_in_postcopy("It is too late to cancel")?;
        if let Some(departure) = &*self.0.departure.lock() {
            departure.handle.cancel();
        }
        if let Some(arrival) = &*self.0.arrival.lock() {
            arrival.handle.cancel();
        }
        Ok(())
    }

    fn migrate_start_postcopy(&self) -> Result<(), CommandError> {
        self.0.start_postcopy()
    }

    fn migrate_pause(&self) -> Result<(), CommandError> {
        self.0.pause_postcopy()
    }

    fn migrate_resume(&self, destination: &Address) -> Result<(), CommandError> {
        self.0.resume_postcopy(destination)
    }

    fn migrate_recover(&self, listen: &Address) -> Result<(), CommandError> {
        self.0.expect_source_again(listen)
    }

    fn may_decide(&self) -> Result<(), CommandError> {
        self.0.undecided().map(|_| ())
    }

    fn take_back(&self) -> Result<(), CommandError> {
        self.0.decide(Verdict::TakeBack)
    }

    fn let_go(&self) -> Result<(), CommandError> {
        self.0.decide(Verdict::LetGo)
    }

    fn migrate_continue(&self, state: MigrationStatus) -> Result<(), CommandError> {
        let departure = self.0.departure.lock().clone();
        let current = departure
            .as_ref()
            .map_or(MigrationStatus::None, |departure| query::status(departure.handle.snapshot().status));
        match departure {
            Some(departure) if state == current && current == MigrationStatus::PreSwitchover => {
                departure.handle.proceed();
                Ok(())
            }
            _ => Err(CommandError::generic(format!("Migration not in expected state: {current}"))),
        }
    }

    fn query_migrate(&self) -> MigrationInfo {
        let departure = self.0.departure.lock().clone();
        if let Some(departure) = departure {
            return query::outgoing(
                &departure.handle.snapshot(),
                departure.total_bytes,
                &departure.session,
                &departure.address,
            );
        }
        let arrival = self.0.arrival.lock().clone();
        arrival.map_or_else(MigrationInfo::default, |arrival| {
            query::incoming(
                &arrival.handle.snapshot(),
                arrival.total_bytes,
                arrival.addresses,
                &arrival.listens_at[0],
            )
        })
    }

    fn migrate_set_capabilities(
        &self,
        capabilities: &[MigrationCapabilityStatus],
    ) -> Result<(), CommandError> {
        let under_way = self
            .0
            .departure
            .lock()
            .as_ref()
            .is_some_and(|departure| departure.handle.snapshot().status.is_under_way());
        if under_way {
            return Err(CommandError::generic("There's a migration process in progress"));
        }
        self.0.settings.lock().switch(capabilities)
    }

    fn query_migrate_capabilities(&self) -> Vec<MigrationCapability> {
        self.0.settings.lock().capabilities.clone()
    }

    fn migrate_set_parameters(&self, change: &ParameterChange) -> Result<(), CommandError> {
        let changes_trust =
            [&change.tls_creds, &change.tls_hostname, &change.tls_authz].iter().any(|value| value.is_some());
        if changes_trust && self.0.state() == RunState::Inmigrate && self.0.arrival.lock().is_some() {
            return Err(CommandError::generic(
                "Parameters of TLS cannot be changed now: a source may come at any time, by those that were in force when this side \
                 began to listen. Nothing was changed; certificates in the directory can be replaced at any time",
            ));
        }
        // Held throughout: a migration that begins meanwhile has all of the change, or what is refused while it runs.
        let departure = self.0.departure.lock();
        let mut settings = self.0.settings.lock();
        let mut parameters = settings.parameters.clone();
        parameters.apply(change);
        parameters.end.check().map_err(CommandError::generic)?;
        if let Some(list) = change.tls_authz.as_deref().filter(|list| !list.is_empty()) {
            security::authz(list)?;
        }
        let under_way =
            departure.as_ref().is_some_and(|departure| departure.handle.snapshot().status.is_under_way());
        if let Some(name) = settings.agreed_on_and_changed(&parameters).filter(|_| under_way) {
            return Err(CommandError::generic(format!(
                "Parameter '{name}' cannot be changed now: the migration under way began with it. Nothing was changed; wait for \
                 its end, or cancel it first. max-bandwidth, max-postcopy-bandwidth, avail-switchover-bandwidth, downtime-limit, \
                 whimbrel-deadline, whimbrel-means, whimbrel-downtime-max and the parameters of throttling can be changed at any time"
            )));
        }
        settings.set(parameters)?;
        let params = settings.params();
        drop(settings);
        if let Some(departure) = &*departure {
            departure.follow(params);
        }
        Ok(())
    }

    fn query_migrate_parameters(&self) -> MigrationParameters {
        self.0.settings.lock().parameters.clone()
    }

    fn calc_dirty_rate(&self, request: DirtyRateRequest) -> Result<(), CommandError> {
        self.0.calc_dirty_rate(request)
    }

    fn dump_guest_memory(&self, request: &DumpRequest) -> Result<(), CommandError> {
        self.0.dump(request)
    }

    fn query_dump(&self) -> DumpInfo {
        self.0.dump.info()
    }

    fn set_vcpu_dirty_limit(&self, cpu: Option<u64>, rate: u64) -> Result<(), CommandError> {
        self.0.set_vcpu_dirty_limit(cpu, rate)
    }

    fn query_vcpu_dirty_limit(&self) -> Vec<DirtyLimitInfo> {
        self.0.vcpu_dirty_limits()
    }

    fn query_dirty_rate(&self) -> DirtyRateInfo {
        self.0.dirty_rate.info()
    }

    fn whimbrel_predict(&self, request: PredictionRequest) -> Result<(), CommandError> {
        self.0.predict(request)
    }

    fn query_whimbrel_prediction(&self) -> PredictionInfo {
        self.0.prediction.info()
    }

    fn announce_self(&self, parameters: &AnnounceParameters) -> Result<(), CommandError> {
        drop(self.0.to_change()?);
        announce::start(&self.0, *parameters).map_err(|error| {
            CommandError::generic(format!("The machine cannot be announced to the network: {error}"))
        })
    }

    fn query_blockstats(&self) -> Vec<BlockStats> {
        // Where no machine is yet, its disks have done nothing.
        let figures = self.0.machine().map(|machine| machine.disk_figures()).unwrap_or_default();
        (0..self.0.config.disks().len())
            .map(|index| storage::stats(index, figures.get(index).copied().unwrap_or_default()))
            .collect()
    }

    fn query_balloon(&self) -> Result<BalloonInfo, CommandError> {
        let actual = self.0.machine()?.balloon_actual();
        actual.map(|actual| BalloonInfo { actual }).ok_or_else(no_balloon)
    }

    fn balloon(&self, bytes: u64) -> Result<(), CommandError> {
        let (_turn, machine) = self.0.to_change()?;
        if !machine.has_balloon() {
            return Err(no_balloon());
        }
        machine.set_balloon_target(bytes);
        Ok(())
    }

    fn send_key(&self, keys: &[KeyCode], hold: Duration) -> Result<(), CommandError> {
        self.0.press_keys(keys, hold)
    }

    fn query_whimbrel_report(&self) -> Result<serde_json::Value, CommandError> {
        let none =
            || CommandError::generic("There is no report: no migration has left this machine or come here");
        let report = self.0.report().ok_or_else(none)?;
        serde_json::to_value(report)
            .map_err(|error| CommandError::generic(format!("The report cannot be encoded: {error}")))
    }

    fn query_name(&self) -> NameInfo {
        NameInfo { name: Some(self.0.config.name().as_str().to_owned()) }
    }

    fn query_uuid(&self) -> UuidInfo {
        UuidInfo { uuid: self.0.here.uuid().unwrap_or_default().to_string() }
    }

    fn query_whimbrel_threads(&self) -> Result<Vec<ThreadInfo>, CommandError> {
        threads::all().map_err(|error| {
            CommandError::generic(format!("The threads of the process cannot be read from /proc: {error}"))
        })
    }

    fn query_cpus_fast(&self) -> Vec<CpuInfoFast> {
        // Where no machine is yet, its vCPUs have the threads that they will run on.
        let waiting =
            || self.0.keep.as_ref().filter(|_| self.0.state() == RunState::Inmigrate).map(Keep::vcpu_threads);
        let machine = self.0.machine().ok().map(|machine| machine.vcpu_threads());
        let threads = machine.or_else(waiting).unwrap_or_default();
        (0..).zip(threads).map(|(index, thread)| CpuInfoFast::x86_64(index, thread)).collect()
    }
}

impl Control {
    /// Has something done that starts threads which may do more than a client's thread.
    pub(super) fn launch(
        self: &Arc<Self>,
        start: impl FnOnce(&Arc<Self>) -> Result<(), CommandError> + Send + 'static,
    ) -> Result<(), CommandError> {
        let control = self.clone();
        let started = self.launcher.run(move || start(&control));
        started.map_err(|defect| CommandError::generic(defect.to_string())).flatten()
    }

    /// Why the machine runs or does not.
    pub fn run_state(&self) -> RunState {
        self.state()
    }
}

fn no_balloon() -> CommandError {
    CommandError::device_not_active(
        "No balloon device has been activated: start the machine with --balloon on",
    )
}
