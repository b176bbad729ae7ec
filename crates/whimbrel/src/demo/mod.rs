//! `whimbrel demo`: a busy machine moves between two processes and back, and says itself whether it noticed.
//!
//! The story is in `journey`; what is asked for in `plan`; one move in `hop`; what is seen meanwhile in `screen`; what is
//! said at the end in `report` and `verdict`.

mod arguments;
mod hop;
mod journey;
mod plan;
mod report;
mod screen;
mod settle;
mod verdict;

use std::{io, process::ExitCode};

pub(crate) use arguments::Arguments;
use hop::HopError;
use journey::Journey;
use plan::{Plan, PlanError};
use screen::Screen;
use verdict::Verdict;

use crate::rig::{Interrupt, Interrupted, KvmError, MachineError, ProgramError, WitnessError, check_kvm};

/// Why there is nothing to judge.
#[derive(Debug, thiserror::Error)]
enum DemoError {
    /// No virtual machine can run here.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The VMM is not there.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// What was asked for does not fit together, or not into this host.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The user wants to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// A file or folder of the demo's own.
    #[error("Cannot prepare {what}")]
    Prepare { what: String, source: io::Error },
    /// A machine's process or monitor.
    #[error(transparent)]
    Machine(MachineError),
    /// The guest does not speak.
    #[error(transparent)]
    Witness(#[from] WitnessError),
    /// The guest's memory is not filled in time.
    #[error(
        "The guest has not filled its memory within {seconds} s: is the host very busy? Try --memory 256M"
    )]
    Filling { seconds: u64 },
    /// A move failed.
    #[error("The move {way} failed")]
    Hop { way: String, source: Box<HopError> },
}

impl From<MachineError> for DemoError {
    fn from(error: MachineError) -> Self {
        match error {
            MachineError::Interrupted(interrupted) => Self::Interrupted(interrupted),
            error => Self::Machine(error),
        }
    }
}

impl DemoError {
    /// 2: it could not even begin, and the user can do something about it. 1: it did not hold.
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Kvm(_) | Self::Program(_) | Self::Plan(_) | Self::Prepare { .. } => ExitCode::from(2),
            // As a shell has it for a command that SIGINT ended.
            Self::Interrupted(_) => ExitCode::from(130),
            Self::Machine(_) | Self::Witness(_) | Self::Filling { .. } | Self::Hop { .. } => {
                ExitCode::FAILURE
            }
        }
    }
}

/// 0 if everything held, 1 if something did not, 2 if it could not begin.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let screen = Screen::new(arguments.plain());
    match show(arguments, &screen) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            screen.end_bar();
            match &error {
                DemoError::Interrupted(_) => {
                    output::complain!("Interrupted: everything that was started has ended");
                }
                error => output::complain!("whimbrel demo: {}", crate::with_sources(error)),
            }
            error.exit_code()
        }
    }
}

fn show(arguments: &Arguments, screen: &Screen) -> Result<bool, DemoError> {
    check_kvm()?;
    let interrupt = Interrupt::install()
        .map_err(|source| DemoError::Prepare { what: "for Ctrl-C".to_owned(), source })?;
    let plan = Plan::new(arguments)?;
    plan.tell(screen);
    let outcome = Journey::begin(&plan, screen, &interrupt)?.travel()?;
    let verdict = Verdict::new(plan.hops(), plan.downtime_limit, &outcome);
    report::print(&plan, &outcome, &verdict, screen);
    Ok(verdict.holds())
}
