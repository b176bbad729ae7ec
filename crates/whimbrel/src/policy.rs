//! `whimbrel policy`: which policy applies, and what one would change.

use std::{
    error::Error,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    process::ExitCode,
};

use fleet::{policy::resolve, preview::difference};
use objects::{MigrationPolicy, PolicyChange};

use crate::{
    plan::show_values,
    reach::{Reach, world},
};

/// Show which migration policy applies to a machine, or what a policy would change before it exists.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Say which policy applies to a machine, why, and what it comes to
    Explain {
        /// The machine
        #[arg(value_name = "VM")]
        machine: String,
        #[command(flatten)]
        reach: Reach,
    },
    /// Say for which machines a policy would change what, if it were applied
    Try {
        /// The policy's manifest, YAML or JSON; '-' is standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        reach: Reach,
    },
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    match &arguments.command {
        Command::Explain { machine, reach } => reach.run(async |client| {
            let world = world(&client).await?;
            let instance = world
                .instance(&reach.namespace, machine)
                .ok_or_else(|| format!("There is no instance {machine} in namespace {}", reach.namespace))?;
            let choice = fleet::policy::of(&world, instance);
            output::say!("{} ({})", name_of(choice.policy), choice.reason);
            show_values(&resolve(choice.policy, &world.settings()));
            Ok(ExitCode::SUCCESS)
        }),
        Command::Try { file, reach } => reach.run(async |client| {
            let policy = read(file)?;
            let before = world(&client).await?;
            let mut after = before.clone();
            after.policies.retain(|other| other.metadata.name != policy.metadata.name);
            after.policies.push(std::sync::Arc::new(policy));
            let changes: Vec<_> =
                before.instances.iter().filter_map(|one| difference(&before, &after, one)).collect();
            changes.iter().for_each(|change| output::say!("{}", line(change)));
            output::say!("{} of {} instances would change", changes.len(), before.instances.len());
            Ok(ExitCode::SUCCESS)
        }),
    }
}

fn read(path: &Path) -> Result<MigrationPolicy, Box<dyn Error>> {
    let wrong = |error: io::Error| format!("Cannot read {}: {error}", path.display());
    let mut text = String::new();
    if path == Path::new("-") {
        io::stdin().read_to_string(&mut text).map_err(wrong)?;
    } else {
        text = fs::read_to_string(path).map_err(wrong)?;
    }
    serde_saphyr::from_str(&text)
        .map_err(|error| format!("{} is no MigrationPolicy: {error}", path.display()).into())
}

/// What would change for an instance, on a line.
fn line(change: &PolicyChange) -> String {
    let policy = |name: &Option<String>| name.clone().unwrap_or_else(|| "none".to_owned());
    let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "unset".to_owned());
    let values = change.values.iter();
    let values: Vec<_> = values
        .map(|changed| format!("{} {} → {}", changed.name, value(&changed.before), value(&changed.after)))
        .collect();
    format!(
        "{}/{}: policy {} → {}; {}",
        change.namespace,
        change.name,
        policy(&change.before),
        policy(&change.after),
        if values.is_empty() { "the values stay".to_owned() } else { values.join(", ") }
    )
}

fn name_of(policy: Option<&MigrationPolicy>) -> String {
    policy.and_then(|policy| policy.metadata.name.clone()).unwrap_or_else(|| "none".to_owned())
}
