//! `whimbrel migrate`: moves a machine of the fleet, and watches.

use std::{
    error::Error,
    process::ExitCode,
    time::{Duration, Instant},
};

use kube::{
    Api, Client, ResourceExt,
    api::{ObjectMeta, PostParams},
};
use objects::{
    HOSTNAME_LABEL, MigrationPhase, MigrationPriority, RETRY_CONDITION, VirtualMachineInstanceMigration,
    VirtualMachineInstanceMigrationSpec, VirtualMachineInstanceMigrationStatus, condition,
};
use tokio::{sync::Notify, time::timeout};

use crate::{
    reach::{Reach, done},
    rig::{Bytes, Span},
    seconds::Seconds,
};

/// Move a machine of the fleet to another node, and watch.
///
/// Ctrl-C ends the watching, not the migration: `kubectl get vmim` shows it, and spec.cancel gives it up.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The machine
    #[arg(value_name = "VM")]
    machine: String,
    /// The node that it shall run on [default: the one with most free memory that fits]
    #[arg(long, value_name = "NODE")]
    to: Option<String>,
    /// How long it may take, instead of what its policy says: 60s, 10m. What is done when it is over, the policy says
    #[arg(long, value_name = "TIME")]
    deadline: Option<Seconds>,
    /// Whose turn it is when several wait [default: user]
    #[arg(long, value_name = "PRIORITY")]
    priority: Option<Priority>,
    /// How often it is tried again after it failed for a reason that may pass, instead of what its policy says: 0 to 20
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=20))]
    retries: Option<u32>,
    #[command(flatten)]
    reach: Reach,
    /// Do not wait for the end
    #[arg(long)]
    detach: bool,
}

/// Whose turn it is, as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Priority {
    /// Before all others
    Critical,
    /// Before maintenance; who came first, first
    User,
    /// When nothing else waits
    Maintenance,
}

impl Priority {
    fn of_object(self) -> MigrationPriority {
        match self {
            Self::Critical => MigrationPriority::SystemCritical,
            Self::User => MigrationPriority::UserTriggered,
            Self::Maintenance => MigrationPriority::SystemMaintenance,
        }
    }
}

const TICK: Duration = Duration::from_secs(1);

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    arguments.reach.run(async |client| migrate(arguments, &client).await)
}

async fn migrate(arguments: &Arguments, client: &Client) -> Result<ExitCode, Box<dyn Error>> {
    let api: Api<VirtualMachineInstanceMigration> = arguments.reach.api(client);
    let began = Instant::now();
    let wish = VirtualMachineInstanceMigration {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", arguments.machine)),
            ..ObjectMeta::default()
        },
        spec: VirtualMachineInstanceMigrationSpec {
            vmi_name: arguments.machine.clone(),
            added_node_selector: arguments
                .to
                .iter()
                .map(|node| (HOSTNAME_LABEL.to_owned(), node.clone()))
                .collect(),
            deadline_seconds: arguments.deadline.map(|seconds| seconds.0),
            priority: arguments.priority.map(Priority::of_object),
            retry_limit: arguments.retries,
            cancel: false,
        },
        status: None,
    };
    let made = done(api.create(&PostParams::default(), &wish)).await?;
    let mut name = made.name_any();
    output::say!("{name} was made");
    if arguments.detach {
        return Ok(ExitCode::SUCCESS);
    }
    let changed = std::sync::Arc::new(Notify::new());
    let mirror = mirror::Mirror::start(api, changed.clone());
    let mut shown = String::new();
    loop {
        // Both ends are a reason to look.
        let _ = timeout(TICK, changed.notified()).await;
        let found = mirror.all().into_iter().find(|migration| migration.name_any() == name);
        let Some(migration) = found else {
            if mirror.is_there() {
                return Err(
                    format!("{name} was deleted; the machine may have moved: `kubectl get vmi`").into()
                );
            }
            continue;
        };
        let status = migration.status.clone().unwrap_or_default();
        let line = line(&status);
        if line != shown {
            output::say!("{:>9}  {line}", Span(began.elapsed()).to_string());
            shown = line;
        }
        if !status.phase().is_final() {
            continue;
        }
        match next(&status) {
            Next::Nothing => return Ok(verdict(&arguments.machine, &status)),
            Next::Unknown => {}
            Next::Waits => {
                let when = condition(&status.conditions, RETRY_CONDITION).and_then(|one| one.message.clone());
                let line = format!("It failed: {} {}", state_reason(&status), when.unwrap_or_default());
                if line != shown {
                    output::say!("{:>9}  {line}", Span(began.elapsed()).to_string());
                    shown = line;
                }
            }
            Next::Again(another) => name = another,
        }
    }
}

/// What follows on a migration that is over.
enum Next {
    /// It was the last attempt.
    Nothing,
    /// The controllers have not said so yet.
    Unknown,
    /// It is tried again later.
    Waits,
    /// It is tried again as this.
    Again(String),
}

fn next(status: &VirtualMachineInstanceMigrationStatus) -> Next {
    let state = status.migration_state.as_ref();
    let values = state.and_then(|state| state.migration_configuration.as_ref());
    if status.phase() != MigrationPhase::Failed || values.is_none_or(|values| values.retry_limit == 0) {
        return Next::Nothing;
    }
    let Some(retry) = condition(&status.conditions, RETRY_CONDITION) else { return Next::Unknown };
    match retry.reason.as_deref() {
        Some("BackOff") => Next::Waits,
        // Its message ends with the name.
        Some("Retried") => {
            let message = retry.message.clone().unwrap_or_default();
            let name = message.trim_end_matches('.').rsplit(' ').next().unwrap_or_default();
            Next::Again(name.to_owned())
        }
        _ => Next::Nothing,
    }
}

fn state_reason(status: &VirtualMachineInstanceMigrationStatus) -> String {
    status.migration_state.as_ref().and_then(|state| state.failure_reason.clone()).unwrap_or_default()
}

/// Where a migration stands, on a line.
fn line(status: &VirtualMachineInstanceMigrationStatus) -> String {
    let state = status.migration_state.clone().unwrap_or_default();
    let why = condition(&status.conditions, "Scheduled").and_then(|condition| condition.message.clone());
    match (status.phase(), state.progress) {
        (MigrationPhase::Pending | MigrationPhase::Scheduled, _) => {
            format!("{:?}: {}", status.phase(), why.unwrap_or_default())
        }
        (MigrationPhase::Running, Some(progress)) => format!(
            "Running: round {}, {}%, {} to go, {}/s on the wire, {}/s dirtied",
            progress.round,
            progress.percent.unwrap_or(0),
            Bytes(progress.remaining_bytes),
            Bytes(progress.wire_rate),
            Bytes(progress.dirty_rate)
        ),
        (phase, _) => format!("{phase:?}"),
    }
}

/// Says what came of a migration. Its exit status is that of one that was wanted.
pub(crate) fn verdict(machine: &str, status: &VirtualMachineInstanceMigrationStatus) -> ExitCode {
    let state = status.migration_state.clone().unwrap_or_default();
    if status.phase() == MigrationPhase::Failed {
        output::say!("{machine} has not moved: {}", state.failure_reason.unwrap_or_default());
        if let Some(advice) = state.failure.and_then(|failure| failure.advice) {
            output::say!("{advice}");
        }
        return ExitCode::FAILURE;
    }
    let result = state.result.unwrap_or_default();
    let millis = |millis: Option<u64>| Span(Duration::from_millis(millis.unwrap_or(0)));
    output::say!(
        "{machine} runs on {} now: {} in all, {} down, {} sent in {} rounds",
        state.target_node.unwrap_or_default(),
        millis(result.total_ms),
        millis(result.downtime.map(|downtime| downtime.total_ms)),
        Bytes(result.transferred_bytes),
        result.rounds
    );
    ExitCode::SUCCESS
}
