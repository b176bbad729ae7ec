//! One move, watched from outside.

use std::{
    fs, io,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use comparison::{Contender, Mode, Outcome, Run, Scenario, figures::AFTER_MS};
use monitor::{ClientError, protocol::Event, types::MigrationInfo};
use serde_json::json;

use super::{Compare, modes::set_up};
use crate::rig::{
    End, Felt, Files, Guest, Interrupted, LinkError, Machine, MachineError, Witness, WitnessError, encrypt,
    listen, longest_gap, micros,
};

/// What is moved how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub(super) scenario: Scenario,
    pub(super) mode: Mode,
    pub(super) contender: Contender,
}

/// Why a move could not be measured.
#[derive(Debug, thiserror::Error)]
pub(super) enum AttemptError {
    /// A machine's process or monitor.
    #[error(transparent)]
    Machine(MachineError),
    /// The guest does not speak.
    #[error(transparent)]
    Witness(#[from] WitnessError),
    /// The user wants to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// The link does not take its rate.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Those who use the machine cannot.
    #[error("The users of the machine cannot watch it")]
    Users(#[source] io::Error),
    /// The destination does not say where it listens.
    #[error("The destination listens, but does not say at which port")]
    NoPort,
    /// Something did not come in time.
    #[error("{what} did not come within {seconds} s")]
    Late { what: &'static str, seconds: u64 },
}

impl From<MachineError> for AttemptError {
    fn from(error: MachineError) -> Self {
        match error {
            MachineError::Interrupted(interrupted) => Self::Interrupted(interrupted),
            error => Self::Machine(error),
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(120);
/// How often the wire and the guest are looked at while it moves.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long the guest works, and is used, before it is moved: what it does then is what it is compared with. A
/// destination has been up for as long.
const REST: Duration = Duration::from_millis(1500);
/// How often the guest says what it has done, in milliseconds.
const REPORT_MS: u32 = 100;

/// Moves a fresh guest from one fresh process to another.
pub(super) fn attempt(compare: &Compare, case: Case, repetition: u32) -> Result<Run, AttemptError> {
    compare.hosts.carry(compare.plan.bandwidth(case.scenario))?;
    let mut source = compare.start(case, End::Source)?;
    let mut witness = Witness::new(source.serial());
    compare.wait_until(&mut witness, "the filling of memory", Witness::filled)?;
    let first_report = witness.reports().len() + 1;
    compare.wait_until(&mut witness, "reports", |witness| witness.reports().len() > first_report)?;
    let mut destination = compare.start(case, End::Destination)?;
    let mut run = Run::new(case.scenario, case.mode, case.contender, repetition);
    if let Err(reason) = compare.prepare(case, &mut source, &mut destination)? {
        run.outcome = Outcome::NotSuitable(reason);
        return Ok(run);
    }
    let users = compare.hosts.users().map_err(AttemptError::Users)?;
    let port = listen(compare.hosts.address(), &mut destination)?.ok_or(AttemptError::NoPort)?;
    let watched = Watched {
        compare,
        case,
        run,
        witness,
        seen: first_report,
        arrived_at: None,
        ended: None,
        epoch: Instant::now(),
    };
    let watched = watched.follow(&mut source, &mut destination, &compare.hosts.uri(&port))?;
    let begun = watched.epoch;
    let mut run = watched.sum_up(&mut source)?;
    if let Some(users) = users {
        users.finish(begun, &mut run.trace).map_err(AttemptError::Users)?;
    }
    if run.is_completed() {
        source.quit()?;
        destination.quit()?;
    }
    Ok(run)
}

/// A move that is under way.
struct Watched<'a> {
    compare: &'a Compare,
    case: Case,
    run: Run,
    witness: Witness,
    /// Reports whose work is in the trace.
    seen: usize,
    /// How many reports had come when the destination ran the machine.
    arrived_at: Option<usize>,
    /// When it was over, in milliseconds.
    ended: Option<f64>,
    /// When it was asked for; before that, when it was begun to look.
    epoch: Instant,
}

impl Watched<'_> {
    fn follow(
        mut self,
        source: &mut Machine,
        destination: &mut Machine,
        uri: &str,
    ) -> Result<Self, AttemptError> {
        while self.epoch.elapsed() < REST {
            self.look()?;
            self.compare.interrupt.sleep(LOOK_EVERY)?;
        }
        let shift = self.ms();
        let shifted = |point: &mut [f64; 2]| point[0] -= shift;
        self.run.trace.wire.iter_mut().chain(&mut self.run.trace.work).for_each(shifted);
        let begun_at = self.witness.reports().len();
        self.epoch = Instant::now();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as i64;
        source.execute("migrate", json!({ "uri": uri }))?;
        let mut waits_for_active = self.case.contender == Contender::Qemu && self.case.mode.is_postcopy();
        let allowed_ms = self.compare.plan.allowed_s(self.case.scenario) * 1e3;
        loop {
            self.compare.interrupt.check()?;
            if waits_for_active && source.execute("query-migrate", json!({}))?["status"] == "active" {
                source.execute("migrate-start-postcopy", json!({}))?;
                waits_for_active = false;
            }
            self.hear(source, destination, wall)?;
            self.look()?;
            match self.ended {
                Some(_) if self.run.outcome != Outcome::Completed => break,
                Some(ended) if self.arrived_at.is_some() && self.ms() > ended + AFTER_MS + MARGIN_MS => break,
                _ => {}
            }
            if self.ended.is_none() && self.ms() > allowed_ms {
                self.give_up(source)?;
                break;
            }
            if self.ms() > allowed_ms + PATIENCE.as_secs_f64() * 1e3 {
                return Err(AttemptError::Late { what: "the machine's RESUME", seconds: PATIENCE.as_secs() });
            }
        }
        if let Some(arrived_at) = self.arrived_at {
            let felt = Felt::new(self.witness.reports(), begun_at, arrived_at);
            self.run.gap_ms = Some(felt.gap.as_secs_f64() * 1e3);
        }
        // A machine whose memory follows it may stand still long after the switchover.
        let longest = longest_gap(self.witness.reports().get(begun_at..).unwrap_or_default());
        self.run.longest_stop_ms = Some(longest.as_secs_f64() * 1e3);
        Ok(self)
    }

    /// Hears what both sides tell by themselves.
    fn hear(
        &mut self,
        source: &mut Machine,
        destination: &mut Machine,
        wall: i64,
    ) -> Result<(), AttemptError> {
        let at = |event: &Event| micros(event).saturating_sub(wall) as f64 / 1e3;
        while let Some(event) = destination.events().next(Duration::ZERO) {
            // What the source's guest said is all there by then.
            if event.event == "RESUME" && self.arrived_at.is_none() {
                self.run.resume_ms = Some(at(&event));
                self.witness.follow(destination.serial())?;
                self.note_work();
                self.arrived_at = Some(self.witness.reports().len());
            }
        }
        let Some(event) = source.events().next(LOOK_EVERY) else {
            source.check()?;
            destination.check()?;
            return Ok(());
        };
        match event.event.as_str() {
            "STOP" => self.run.stop_ms = Some(at(&event)),
            "MIGRATION" => {
                let status = event.data.as_ref().and_then(|data| data["status"].as_str()).unwrap_or_default();
                match status {
                    "completed" => self.ended = Some(at(&event)),
                    "failed" | "cancelled" => {
                        let reason = source.query_migrate()?.error_desc;
                        let reason = reason.unwrap_or_else(|| "no reason is given".to_owned());
                        self.ended = Some(at(&event));
                        self.run.outcome = Outcome::NotSuitable(format!("it ended as '{status}': {reason}"));
                    }
                    _ => {}
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Looks at the wire, and hears what the guest says.
    fn look(&mut self) -> Result<(), AttemptError> {
        let bytes = self.compare.hosts.bytes_sent();
        self.run.trace.wire.push([rounded(self.ms()), bytes as f64]);
        self.witness.listen()?;
        self.note_work();
        Ok(())
    }

    fn note_work(&mut self) {
        let reports = self.witness.reports();
        // Of several at once only the last is of now.
        if reports.len() > self.seen
            && let Some(last) = reports.last()
        {
            self.run.trace.work.push([rounded(self.ms()), last.dirtied as f64]);
            self.seen = reports.len();
        }
    }

    fn give_up(&mut self, source: &mut Machine) -> Result<(), AttemptError> {
        let info = source.query_migrate()?;
        let ram = info.ram.unwrap_or_default();
        self.ended = Some(self.ms());
        self.run.outcome = Outcome::NotSuitable(format!(
            "not over within {:.0} s: after {} fetches of dirty pages {:.0} MB were left",
            self.ms() / 1e3,
            ram.dirty_sync_count,
            ram.remaining as f64 / 1e6
        ));
        Ok(())
    }

    fn sum_up(mut self, source: &mut Machine) -> Result<Run, AttemptError> {
        self.run.end_ms = self.ended.unwrap_or_else(|| self.ms());
        let info = source.query_migrate()?;
        self.run.rounds = info.ram.as_ref().map_or(0, |ram| ram.dirty_sync_count);
        if self.case.contender == Contender::Whimbrel {
            let parameters = source.execute("query-migrate-parameters", json!({}))?;
            self.run.choices = choices(&info, &parameters["multifd-channels"]);
        }
        self.run.complaints = self.witness.complaints().to_vec();
        Ok(self.run)
    }

    fn ms(&self) -> f64 {
        self.epoch.elapsed().as_secs_f64() * 1e3
    }
}

/// Beyond what is looked at.
const MARGIN_MS: f64 = 100.0;

fn rounded(ms: f64) -> f64 {
    (ms * 100.0).round() / 100.0
}

fn choices(info: &MigrationInfo, channels: &serde_json::Value) -> Vec<String> {
    let own = info.whimbrel.as_ref();
    let decisions = own.into_iter().flat_map(|own| &own.decisions).map(|decision| decision.text.clone());
    [format!("{channels} channels")].into_iter().chain(decisions).collect()
}

impl Compare {
    fn start(&self, case: Case, end: End) -> Result<Machine, AttemptError> {
        let name = match end {
            End::Source => "source",
            End::Destination => "destination",
        };
        let file = |kind: &str| self.folder.path().join(format!("{name}.{kind}"));
        let files = Files { log: file("log"), serial: file("serial"), socket: file("qmp") };
        // Those of the last attempt: a file that is there already would be read as if this guest had written it.
        for path in [&files.serial, &files.socket] {
            let _ = fs::remove_file(path);
        }
        let address = self.hosts.card().map_or_else(String::new, |_| {
            let [a, b, c, d] = super::hosts::GUEST;
            format!(" ip={a}.{b}.{c}.{d}")
        });
        let command_line = format!(
            "work={} rate={} fill=random cpus={} report={REPORT_MS}{address}",
            self.plan.work,
            self.plan.dirty_rate(case.scenario),
            self.plan.cpus
        );
        let guest = Guest {
            memory: self.memory,
            cpus: self.cpus,
            backing: self.backing,
            kernel: &self.kernel,
            command_line: &command_line,
            card: self.hosts.card(),
            // Nobody else is on the link.
            insecure: case.mode != Mode::MultifdTls,
        };
        let command = self.contenders.command(case.contender, end, &guest, &files);
        Ok(Machine::start(name, self.hosts.at(end, command), files, &self.interrupt)?)
    }

    /// Sets both ends up. A refusal is an answer: that mode cannot be had.
    fn prepare(
        &self,
        case: Case,
        source: &mut Machine,
        destination: &mut Machine,
    ) -> Result<Result<(), String>, AttemptError> {
        for (end, machine) in [(End::Source, source), (End::Destination, destination)] {
            let mut done = set_up(case.mode, case.contender, self.plan.downtime_limit_ms, machine);
            if case.mode == Mode::MultifdTls {
                let host = self.hosts.address();
                done = done.and_then(|()| encrypt(case.contender, end, &self.certificates, host, machine));
            }
            match done {
                Err(MachineError::Monitor { source: ClientError::Command { command, source }, .. }) => {
                    return Ok(Err(format!("'{command}' is refused: {source}")));
                }
                outcome => outcome?,
            }
        }
        Ok(Ok(()))
    }

    fn wait_until(
        &self,
        witness: &mut Witness,
        what: &'static str,
        is_so: impl Fn(&Witness) -> bool,
    ) -> Result<(), AttemptError> {
        let begun = Instant::now();
        loop {
            witness.listen()?;
            if is_so(witness) {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                return Err(AttemptError::Late { what, seconds: PATIENCE.as_secs() });
            }
            self.interrupt.sleep(LOOK_EVERY)?;
        }
    }
}
