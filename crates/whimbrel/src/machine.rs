//! What an operator does with a machine of the fleet: each is one write, which kubectl can do too.

use std::{error::Error, process::ExitCode, time::Duration};

use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use objects::{
    MigrationPhase, RunStrategy, VirtualMachine, VirtualMachineInstance, VirtualMachineInstanceMigration,
};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    migrate,
    reach::{Reach, done},
};

/// A machine.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The machine
    #[arg(value_name = "VM")]
    machine: String,
    #[command(flatten)]
    reach: Reach,
}

/// What to do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Start,
    Stop,
    Restart,
    Pause,
    Unpause,
    Cancel,
}

/// How often is looked what came of a cancel.
const LOOK: Duration = Duration::from_millis(100);

pub(crate) fn run(arguments: &Arguments, action: Action) -> Result<ExitCode, Box<dyn Error>> {
    arguments.reach.run(async |client| {
        let name = arguments.machine.as_str();
        match action {
            Action::Start | Action::Stop => strategy(arguments, &client, action).await?,
            Action::Restart => restart(arguments, &client).await?,
            Action::Pause | Action::Unpause => {
                let instances: Api<VirtualMachineInstance> = arguments.reach.api(&client);
                let is_paused = action == Action::Pause;
                merge(&instances, name, json!({ "spec": { "paused": is_paused } })).await?;
                output::say!("{name} {}", if is_paused { "stands still" } else { "goes on" });
            }
            Action::Cancel => return cancel(arguments, &client).await,
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Has the machine run, or not.
async fn strategy(arguments: &Arguments, client: &Client, action: Action) -> Result<(), Box<dyn Error>> {
    let name = arguments.machine.as_str();
    let machines: Api<VirtualMachine> = arguments.reach.api(client);
    let machine = done(machines.get(name)).await?;
    let runs = machine.spec.run_strategy != RunStrategy::Halted;
    match (action, runs) {
        (Action::Start, true) => output::say!("{name} runs already, or is about to"),
        (Action::Start, false) => {
            merge(&machines, name, json!({ "spec": { "runStrategy": RunStrategy::Always } })).await?;
            output::say!("{name} starts");
        }
        (_, false) => output::say!("{name} is stopped already"),
        (_, true) => {
            merge(&machines, name, json!({ "spec": { "runStrategy": RunStrategy::Halted } })).await?;
            output::say!("{name} stops");
        }
    }
    Ok(())
}

/// Ends this run. The controllers begin another, of the machine as it is described now.
async fn restart(arguments: &Arguments, client: &Client) -> Result<(), Box<dyn Error>> {
    let name = arguments.machine.as_str();
    let machines: Api<VirtualMachine> = arguments.reach.api(client);
    if done(machines.get(name)).await?.spec.run_strategy == RunStrategy::Halted {
        return Err(format!("{name} is stopped: whimbrel start {name}").into());
    }
    let instances: Api<VirtualMachineInstance> = arguments.reach.api(client);
    done(instances.delete(name, &DeleteParams::default())).await?;
    output::say!("{name} ends, and starts again");
    Ok(())
}

/// Gives up the migration that is under way, and says what came of that.
async fn cancel(arguments: &Arguments, client: &Client) -> Result<ExitCode, Box<dyn Error>> {
    let name = arguments.machine.as_str();
    let migrations: Api<VirtualMachineInstanceMigration> = arguments.reach.api(client);
    let all = done(migrations.list(&ListParams::default())).await?;
    let phase = |migration: &VirtualMachineInstanceMigration| {
        migration
            .status
            .as_ref()
            .map_or(MigrationPhase::Pending, objects::VirtualMachineInstanceMigrationStatus::phase)
    };
    let active = all.items.into_iter().find(|one| one.spec.vmi_name == name && !phase(one).is_final());
    let active = active.ok_or_else(|| format!("{name} is not being migrated"))?.name_any();
    merge(&migrations, &active, json!({ "spec": { "cancel": true } })).await?;
    // The engine has a say, and a link may be slow: there is no other end than the migration's own.
    loop {
        let migration = done(migrations.get(&active)).await?;
        if phase(&migration).is_final() {
            let status = migration.status.unwrap_or_default();
            let is_cancelled = status.phase() == MigrationPhase::Failed;
            migrate::verdict(name, &status);
            return Ok(if is_cancelled { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        sleep(LOOK).await;
    }
}

async fn merge<K>(api: &Api<K>, name: &str, patch: Value) -> Result<(), Box<dyn Error>>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    done(api.patch(name, &PatchParams::default(), &Patch::Merge(patch))).await.map(drop)
}
