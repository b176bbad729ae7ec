use std::time::{Duration, Instant};

use monitor::types::{
    FaultsInfo, MigrationInfo, MigrationStatus, RoundInfo, RunState, SocketAddress, WhimbrelInfo,
};
use serde_json::json;

use super::{plan::Plan, screen::Screen};
use crate::rig::{
    ByteRate, Bytes, Interrupt, Interrupted, Machine, MachineError, Span, Witness, WitnessError,
};

/// One move, as it went.
#[derive(Debug)]
pub(super) struct Hop {
    /// Such as `A → B`.
    pub(super) way: String,
    /// The source's figures at the end.
    pub(super) info: MigrationInfo,
    /// The source's text of `info migrate` at the end.
    pub(super) text: String,
    /// From the source's STOP to the destination's RESUME by the host's clock.
    pub(super) stood_still: Option<Duration>,
    /// CPU seconds that the destination spent.
    pub(super) destination_cpu: Option<f64>,
    /// How long the machine waited for pages that followed it, if it was by postcopy.
    pub(super) faults: Option<FaultsInfo>,
    /// Number of the guest's reports before the move began.
    pub(super) begun_at: usize,
    /// Number of the guest's reports before those from the destination.
    pub(super) arrived_at: usize,
}

/// Why a machine did not move.
#[derive(Debug, thiserror::Error)]
pub(super) enum HopError {
    /// A machine's process or monitor.
    #[error(transparent)]
    Machine(MachineError),
    /// The guest does not speak.
    #[error(transparent)]
    Witness(#[from] WitnessError),
    /// The user wants to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// The destination does not say where it listens.
    #[error("The destination listens, but does not say at which port")]
    NoPort,
    /// The migration ended otherwise than completed.
    #[error("The migration ended as '{status}': {reason}")]
    Migration { status: MigrationStatus, reason: String },
    /// It was completed, and the machine does not run.
    #[error("The machine has arrived, but is in state '{state}' instead of running")]
    NotRunning { state: RunState },
    /// The guest did not check all its memory in time.
    #[error("The guest has not checked all its memory within {seconds} s of its arrival")]
    Unchecked { seconds: u64 },
}

impl From<MachineError> for HopError {
    fn from(error: MachineError) -> Self {
        match error {
            MachineError::Interrupted(interrupted) => Self::Interrupted(interrupted),
            error => Self::Machine(error),
        }
    }
}

/// Often enough for a bar that moves smoothly, seldom enough not to take the CPU from the migration.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// From the source's last word until the machine runs on the destination, and until its events have arrived.
const ARRIVAL: Duration = Duration::from_secs(5);

/// Bytes of a page, as a dirty log counts them.
const PAGE: u64 = 4096;

/// Moves the machine, and follows it. Afterwards the guest is heard from the destination.
pub(super) fn hop(
    plan: &Plan,
    by_postcopy: bool,
    screen: &Screen,
    interrupt: &Interrupt,
    witness: &mut Witness,
    source: &mut Machine,
    destination: &mut Machine,
) -> Result<Hop, HopError> {
    let way = format!("{} → {}", source.name(), destination.name());
    set_up(plan, source)?;
    set_up(plan, destination)?;
    if by_postcopy {
        let capability = json!({ "capability": "postcopy-ram", "state": true });
        source.execute("migrate-set-capabilities", json!({ "capabilities": [capability] }))?;
        source.execute("migrate-set-parameters", json!({ "whimbrel-postcopy": "immediate" }))?;
    }
    let port = listen(destination)?;
    witness.listen()?;
    let begun_at = witness.reports().len();
    screen.begin_bar(&way);
    source.execute("migrate", json!({ "uri": format!("tcp:127.0.0.1:{port}") }))?;
    let info = watch(screen, interrupt, witness, source, destination)?;
    screen.end_bar();
    wait_until_running(interrupt, destination)?;
    witness.follow(destination.serial())?;
    let arrived_at = witness.reports().len();
    let there = destination.query_migrate()?.whimbrel.unwrap_or_default();
    let (destination_cpu, faults) = (there.cpu_seconds, there.faults);
    let text = source.human("info migrate")?;
    let stood_still = stood_still(source, destination);
    Ok(Hop { way, info, text, stood_still, destination_cpu, faults, begun_at, arrived_at })
}

fn set_up(plan: &Plan, machine: &mut Machine) -> Result<(), HopError> {
    let mut parameters = json!({
        "max-bandwidth": plan.bandwidth.0,
        "downtime-limit": u64::try_from(plan.downtime_limit.as_millis()).unwrap_or(u64::MAX),
    });
    if let Some(channels) = plan.channels {
        parameters["multifd-channels"] = channels.into();
    }
    machine.execute("migrate-set-parameters", parameters)?;
    Ok(())
}

/// Has the destination listen on a port of the system's choice, and returns it.
fn listen(destination: &mut Machine) -> Result<String, HopError> {
    destination.execute("migrate-incoming", json!({ "uri": "tcp:127.0.0.1:0" }))?;
    let addresses = destination.query_migrate()?.socket_address.unwrap_or_default();
    let port = addresses.into_iter().find_map(|address| match address {
        SocketAddress::Inet { port, .. } => Some(port),
        _ => None,
    });
    port.ok_or(HopError::NoPort)
}

/// Shows how it goes until it is over.
fn watch(
    screen: &Screen,
    interrupt: &Interrupt,
    witness: &mut Witness,
    source: &mut Machine,
    destination: &mut Machine,
) -> Result<MigrationInfo, HopError> {
    let mut rounds_shown = 0;
    loop {
        let info = source.query_migrate()?;
        show_rounds(screen, &info, &mut rounds_shown);
        match info.status {
            Some(MigrationStatus::Completed) => return Ok(info),
            Some(status) if status.is_final() => {
                // A destination that died is the reason, not the broken connection that the source speaks of.
                destination.check()?;
                let reason = info.error_desc.unwrap_or_else(|| "no reason is given".to_owned());
                return Err(HopError::Migration { status, reason });
            }
            _ => {}
        }
        let fraction = info.whimbrel.as_ref().and_then(|own| own.percentage).unwrap_or(0.0) / 100.0;
        screen.move_bar(fraction, &progress(&info));
        witness.listen()?;
        interrupt.sleep(LOOK_EVERY)?;
    }
}

/// How far it is, in a few words.
fn progress(info: &MigrationInfo) -> String {
    let Some(own) = &info.whimbrel else { return String::new() };
    if info.status == Some(MigrationStatus::PostcopyActive) {
        let remaining = info.ram.as_ref().map_or(0, |ram| ram.remaining);
        return format!("the guest runs there, and {} are still to come", Bytes(remaining));
    }
    if !matches!(info.status, Some(MigrationStatus::Active)) {
        return if own.rounds.is_empty() { "agreeing" } else { "switching over" }.to_owned();
    }
    let mut text = format!("{:>3.0} %", own.percentage.unwrap_or(0.0));
    if let Some(ram) = info.ram.as_ref().filter(|ram| ram.mbps > 0.0) {
        text += &format!("  {}", ByteRate((ram.mbps * 1e6 / 8.0) as u64));
    }
    if let Some(ms) = own.eta_ms {
        text += &format!("  {} to go", Span(Duration::from_millis(ms)));
    }
    if let Some(note) = own.advice.as_ref().or(own.eta_note.as_ref()) {
        text += &format!("  ({note})");
    }
    text
}

/// Says of each round that is over what it moved, and what was decided then.
fn show_rounds(screen: &Screen, info: &MigrationInfo, shown: &mut usize) {
    let Some(own) = &info.whimbrel else { return };
    let complete = match info.status {
        // The last one is still under way, and its figures move.
        Some(MigrationStatus::Active) => own.rounds.len().saturating_sub(1),
        Some(status) if status.is_final() => own.rounds.len(),
        // The switchover takes milliseconds, and which round is its own is known when it is over.
        _ => return,
    };
    let ended = info.status == Some(MigrationStatus::Completed);
    for (index, round) in own.rounds.iter().enumerate().take(complete).skip(*shown) {
        match own.rounds.len() - index {
            1 if ended => show_switchover(screen, round, own),
            left => show_round(screen, round, left == 2 && ended),
        }
    }
    *shown = complete.max(*shown);
}

fn show_round(screen: &Screen, round: &RoundInfo, leads_to_switchover: bool) {
    let took = match round.duration_ms {
        0 => "less than 1 ms".to_owned(),
        ms => Span(Duration::from_millis(ms)).to_string(),
    };
    screen.say(&format!(
        "  {}  {:>8} in {took} at {}; meanwhile the guest dirtied {} ({})",
        screen.bold(&format!("round {:<2}", round.round)),
        Bytes(round.bytes),
        ByteRate(round.wire_rate),
        Bytes(round.dirty_pages.saturating_mul(PAGE)),
        ByteRate(round.dirty_rate)
    ));
    if let Some(decision) = &round.decision {
        let word = if leads_to_switchover { "switch over" } else { "go on" };
        screen.remark(&format!("{word}: {decision}"));
    }
}

fn show_switchover(screen: &Screen, round: &RoundInfo, own: &WhimbrelInfo) {
    let name = screen.bold("switch  ");
    if round.pages == 0 {
        screen.say(&format!("  {name}  the guest stood still, and no page was left to send"));
        return;
    }
    let ms = own.downtime_phases.as_ref().and_then(|phases| phases.last_pages_ms);
    let took = Span(Duration::from_secs_f64(ms.unwrap_or(0.0).max(0.0) / 1e3));
    screen.say(&format!("  {name}  {:>8} in {took}, while the guest stood still", Bytes(round.bytes)));
}

fn wait_until_running(interrupt: &Interrupt, machine: &mut Machine) -> Result<(), HopError> {
    let deadline = Instant::now() + ARRIVAL;
    loop {
        match machine.run_state()? {
            RunState::Running => return Ok(()),
            state if Instant::now() > deadline => return Err(HopError::NotRunning { state }),
            _ => interrupt.sleep(LOOK_EVERY)?,
        }
    }
}

/// The time between the two events, which both sides stamp by the same clock.
fn stood_still(source: &Machine, destination: &Machine) -> Option<Duration> {
    let micros = |machine: &Machine, event: &str| {
        let stamp = machine.events().wait_for(event, ARRIVAL)?.timestamp;
        stamp.seconds.checked_mul(1_000_000)?.checked_add(stamp.microseconds)
    };
    let (stop, resume) = (micros(source, "STOP")?, micros(destination, "RESUME")?);
    u64::try_from(resume.checked_sub(stop)?).ok().map(Duration::from_micros)
}
