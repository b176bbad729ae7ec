//! One migration through a proxy, followed until nothing changes any more.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use faults::{Address, Edge, FrameName, Moment, Phase, Processes, Proxy, Struck, What};
use monitor::{
    ClientError,
    types::{MigrationInfo, MigrationStatus, RunState},
};
use serde_json::{Value, json};

use super::{
    SoakError,
    guest::{Guest, wait},
    judge::{Destination, Facts, Source},
    record::Journeyed,
    scenario::Scenario,
    yard::Place,
};
use crate::rig::{Interrupt, Machine, MachineError};

/// A migration to be made.
pub(super) struct Journey<'a> {
    pub(super) interrupt: &'a Interrupt,
    pub(super) scenario: &'a Scenario,
    /// Whether it goes through the proxy.
    pub(super) harmed: bool,
    /// For a proxy on a unix socket.
    pub(super) socket: PathBuf,
    /// Parameters that encrypt it, or leave it in clear.
    pub(super) security: Value,
}

/// How long a source may take to come to an end. The longest time-out of a migration is half a minute, and there can be two of
/// them in a row; disk locks are waited for as well.
const SOURCE_PATIENCE: Duration = Duration::from_secs(150);
/// The same where nothing goes wrong.
const GOOD_PATIENCE: Duration = Duration::from_secs(40);
/// How long a source that does not know asks before it is believed that nobody will tell it.
const UNKNOWN_PATIENCE: Duration = Duration::from_millis(2500);
/// How long the other side may take to come to the same end, once the network is well.
const OTHER_PATIENCE: Duration = Duration::from_secs(12);
/// How long it is given to notice by itself, with the connections as they are; when it is to be patient and when not.
const NOTICE: [Duration; 2] = [Duration::from_millis(700), Duration::from_secs(45)];
const LOOK_EVERY: Duration = Duration::from_millis(4);

impl Journey<'_> {
    pub(super) fn travel(&self, guest: &mut Guest, vacancy: &mut Place) -> Result<Journeyed, SoakError> {
        let there = vacancy.address.clone().ok_or(SoakError::NoPlace)?;
        self.set_up(&mut guest.place)?;
        let mut proxy = if self.harmed { Some(self.proxy(there.clone(), guest, vacancy)?) } else { None };
        let uri = proxy.as_ref().map_or(&there, Proxy::address).to_string();
        // It may be killed before it can answer.
        guest.place.ask(|machine| machine.execute("migrate", json!({ "uri": uri })))?;
        let was_unknown = self.follow(&mut guest.place, vacancy)?;
        let notice = NOTICE[usize::from(self.scenario.patient)];
        if self.harmed && !self.is_settled(&mut guest.place, vacancy)? {
            self.wait_until_settled(&mut guest.place, vacancy, notice)?;
        }
        // Complete only when it is closed: what a carrier has just passed on it may not have noted yet.
        proxy.iter_mut().for_each(Proxy::close);
        let has_passed = |name| proxy.as_ref().and_then(|proxy| proxy.has_passed(name));
        let (ready, go, hello) = (FrameName::Ready, FrameName::Go, FrameName::Hello);
        let (ready_passed, go_passed) = (has_passed(ready) == Some(true), has_passed(go) == Some(true));
        let in_clear = self.scenario.encrypted && has_passed(hello).is_some();
        let (passed, struck) = proxy.map_or_else(Default::default, |proxy| (proxy.trace(), proxy.struck()));
        self.wait_until_settled(&mut guest.place, vacancy, OTHER_PATIENCE)?;
        let (source, source_reason) = look_at_source(&mut guest.place)?;
        let (destination, destination_reason) = look_at_destination(vacancy)?;
        let facts = Facts {
            source,
            destination,
            struck: struck.iter().map(|struck| struck.fault).collect(),
            ready_passed,
            go_passed,
            was_unknown,
            damaged: self.scenario.encrypted && struck.iter().any(damages_guest),
            in_clear,
            slowed: is_slowed(&mut guest.place)?,
            postcopy: self.scenario.postcopy_after.is_some(),
        };
        Ok(Journeyed { facts, passed, struck, source_reason, destination_reason })
    }

    fn set_up(&self, source: &mut Place) -> Result<(), SoakError> {
        let parameters = json!({
            "max-bandwidth": self.scenario.bandwidth,
            "multifd-channels": self.scenario.channels,
            "whimbrel-digest": self.scenario.digest,
            "multifd-compression": self.scenario.packing,
            // Not enough for the guest's working set: some pages are not kept.
            "xbzrle-cache-size": 4 << 20,
            "max-postcopy-bandwidth": self.scenario.push_bandwidth,
            // A little is too much: what is taken does not depend on how busy this host is.
            "whimbrel-throttle": "steps",
            "throttle-trigger-threshold": 1,
            "cpu-throttle-initial": 50,
            "whimbrel-postcopy": if self.scenario.postcopy_after == Some(0) { "immediate" } else { "request" },
        });
        // What the machine was last set to may not go with what comes: a digest of all memory and postcopy exclude each other.
        let none = json!({ "capability": "postcopy-ram", "state": false });
        source.machine.execute("migrate-set-capabilities", json!({ "capabilities": [none] }))?;
        for parameters in [parameters, self.security.clone()] {
            source.machine.execute("migrate-set-parameters", parameters)?;
        }
        let postcopy =
            json!({ "capability": "postcopy-ram", "state": self.scenario.postcopy_after.is_some() });
        let deltas = json!({ "capability": "xbzrle", "state": self.scenario.deltas });
        let throttle = json!({ "capability": "auto-converge", "state": self.scenario.throttles });
        source
            .machine
            .execute("migrate-set-capabilities", json!({ "capabilities": [postcopy, throttle, deltas] }))?;
        Ok(())
    }

    fn proxy(&self, there: Address, guest: &Guest, vacancy: &Place) -> Result<Proxy, SoakError> {
        let here = if self.scenario.unix {
            Address::Unix(self.socket.clone())
        } else {
            Address::Tcp { host: "127.0.0.1".into(), port: 0 }
        };
        let ids = [&guest.place, vacancy].map(|place| Some(place.machine.process_id()));
        let processes = Processes::new(ids[0], ids[1]).map_err(SoakError::Processes)?;
        Ok(Proxy::start(&here, there, &self.scenario.faults, processes)?)
    }

    /// Waits for the end of the migration as the source sees it. Returns whether it did not know for a while who has the machine.
    fn follow(&self, source: &mut Place, destination: &mut Place) -> Result<bool, SoakError> {
        let began = Instant::now();
        let patience = if self.harmed { SOURCE_PATIENCE } else { GOOD_PATIENCE };
        let mut cancel = self.scenario.cancel_after.filter(|_| self.harmed).map(Duration::from_millis);
        let mut postcopy = self.scenario.postcopy_after.filter(|after| *after > 0).map(Duration::from_millis);
        let mut unknown_since = None;
        loop {
            if postcopy.is_some_and(|after| began.elapsed() >= after) {
                postcopy = None;
                source.ask(start_postcopy_if_it_can)?;
            }
            if cancel.is_some_and(|after| began.elapsed() >= after) {
                cancel = None;
                source.ask(cancel_if_it_can)?;
            }
            let Some(info) = source.ask(Machine::query_migrate)? else { break };
            if info.status.is_none_or(MigrationStatus::is_final) || began.elapsed() > patience {
                break;
            }
            // It looks for its destination for ever.
            if info.status.is_some_and(MigrationStatus::is_postcopy) && destination.is_dead() {
                break;
            }
            if is_unknown(&info) {
                let since = *unknown_since.get_or_insert_with(Instant::now);
                if since.elapsed() > UNKNOWN_PATIENCE && destination.is_dead() {
                    break;
                }
            }
            self.interrupt.sleep(LOOK_EVERY)?;
        }
        Ok(unknown_since.is_some())
    }

    fn wait_until_settled(
        &self,
        source: &mut Place,
        destination: &mut Place,
        time: Duration,
    ) -> Result<(), SoakError> {
        let mut failed = None;
        wait(self.interrupt, time, || match self.is_settled(source, destination) {
            Ok(settled) => settled,
            Err(error) => {
                failed = Some(error);
                true
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// Whether the destination has come to an end that fits the source's.
    fn is_settled(&self, source: &mut Place, destination: &mut Place) -> Result<bool, SoakError> {
        let completed = match source.ask(Machine::query_migrate)? {
            Some(info) => Some(info.status == Some(MigrationStatus::Completed)),
            None => None,
        };
        let Some(state) = destination.ask(Machine::run_state)? else { return Ok(true) };
        let runs = state == RunState::Running;
        let info = destination.ask(Machine::query_migrate)?;
        // A source that was killed may have sent the last page before.
        if info.as_ref().is_some_and(|info| info.status == Some(MigrationStatus::PostcopyActive)) {
            return Ok(false);
        }
        if runs || completed == Some(true) {
            return Ok(runs);
        }
        Ok(info.is_none_or(|info| info.status.is_none_or(|status| status == MigrationStatus::Setup)))
    }
}

/// Whether a fault has changed something of the guest, or of what it cannot move without. In handshakes there are bits that mean nothing,
/// and a farewell may get lost.
fn damages_guest(struck: &Struck) -> bool {
    let flips = matches!(struck.fault.what, What::Flip(_));
    // What comes after a frame may not come.
    let comes = !matches!(struck.fault.place.moment, Moment::Frame { edge: Edge::After, .. });
    flips && comes && matches!(struck.phase, Some(Phase::Rounds | Phase::Switchover))
}

/// Where the machine is stopped already, or all is over, it is too late.
fn start_postcopy_if_it_can(source: &mut Machine) -> Result<(), MachineError> {
    match source.execute("migrate-start-postcopy", json!({})) {
        Err(MachineError::Monitor { source: ClientError::Command { .. }, .. }) => Ok(()),
        outcome => outcome.map(|_| ()),
    }
}

/// Where the destination was told to run the machine, or all is over, it is too late to cancel, and the source says so: an answer like
/// any other.
fn cancel_if_it_can(source: &mut Machine) -> Result<(), MachineError> {
    let outcome = source.execute("migrate_cancel", json!({}));
    if let Err(MachineError::Monitor { source: ClientError::Command { .. }, .. }) = outcome {
        let status = source.query_migrate()?.status;
        let too_late = |status: MigrationStatus| {
            status == MigrationStatus::Device || status.is_postcopy() || status.is_final()
        };
        if status.is_some_and(too_late) {
            return Ok(());
        }
    }
    outcome.map(|_| ())
}

fn look_at_source(place: &mut Place) -> Result<(Source, String), SoakError> {
    let Some(info) = place.ask(Machine::query_migrate)? else {
        return Ok((Source::Dead, String::new()));
    };
    let Some(state) = place.ask(Machine::run_state)? else {
        return Ok((Source::Dead, String::new()));
    };
    let source = Source::Alive {
        status: info.status.unwrap_or(MigrationStatus::None),
        unknown: is_unknown(&info),
        runs: state == RunState::Running,
    };
    Ok((source, reason(&info)))
}

/// Whether time is taken from vCPUs of a machine whose migration is over.
fn is_slowed(place: &mut Place) -> Result<bool, SoakError> {
    let info = place.ask(Machine::query_migrate)?;
    Ok(info.is_some_and(|info| {
        info.status.is_some_and(MigrationStatus::is_final) && info.cpu_throttle_percentage.is_some()
    }))
}

fn look_at_destination(place: &mut Place) -> Result<(Destination, String), SoakError> {
    let Some(info) = place.ask(Machine::query_migrate)? else {
        return Ok((Destination::Dead, String::new()));
    };
    let Some(state) = place.ask(Machine::run_state)? else {
        return Ok((Destination::Dead, String::new()));
    };
    let (runs, lacks) = (state == RunState::Running, info.status.is_some_and(MigrationStatus::is_postcopy));
    Ok((Destination::Alive { runs, lacks }, reason(&info)))
}

/// The source has said *go* and does not know: QEMU has no word for it, but there is advice then.
fn is_unknown(info: &MigrationInfo) -> bool {
    let advised = info.whimbrel.as_ref().is_some_and(|more| more.advice.is_some());
    info.status == Some(MigrationStatus::Device) && advised
}

fn reason(info: &MigrationInfo) -> String {
    let more = info.whimbrel.as_ref().and_then(|more| more.reason.clone());
    info.error_desc.clone().or(more).unwrap_or_default()
}
