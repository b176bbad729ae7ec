//! `whimbrel drain`, `cordon` and `uncordon`: nodes are emptied, and taken back into use.

mod cordon;
mod show;
mod watch;

use std::{error::Error, process::ExitCode, str::FromStr};

use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use objects::{NodeDrain, NodeDrainPlanSpec, NodeDrainSpec, NodeDrainStatus};
use serde_json::{Value, json};

use crate::reach::{Reach, done, world};

pub(crate) use cordon::{Arguments as CordonArguments, run as run_cordon};

/// Move all machines away from nodes, and watch.
///
/// Nodes are cordoned and emptied in order, as many at a time as --min-available allows: a list of nodes is a rolling maintenance, in which
/// the next one follows when you uncordon one that is done. Ctrl-C asks whether to leave it going, to stop or to cancel it. Named
/// again, the same nodes are watched further. The exit status is 0 when all nodes were emptied.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The nodes, in order
    #[arg(value_name = "NODE", required = true)]
    nodes: Vec<String>,
    /// Give it up after that time, such as 90s, 10m or 2h
    #[arg(long, value_name = "TIME")]
    deadline: Option<Seconds>,
    /// How many nodes stay ready and schedulable at any time
    #[arg(long, value_name = "N", default_value_t = objects::MIN_AVAILABLE)]
    min_available: u32,
    /// Show what would become of it, and do nothing. The exit status is 0 if all machines can move, in time
    #[arg(long)]
    dry_run: bool,
    /// Do not wait for the end
    #[arg(long)]
    detach: bool,
    /// Begin nothing more for now in the drain of these nodes
    #[arg(long, group = "change", conflicts_with_all = ["dry_run", "deadline"])]
    stop: bool,
    /// Take the drain of these nodes up again
    #[arg(long, group = "change", conflicts_with_all = ["dry_run", "deadline"])]
    resume: bool,
    /// Give the drain of these nodes up
    #[arg(long, group = "change", conflicts_with_all = ["dry_run", "deadline"])]
    cancel: bool,
    #[command(flatten)]
    reach: Reach,
}

/// A time of whole seconds, typed with s, m, h or d.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seconds(u32);

impl FromStr for Seconds {
    type Err = String;

    fn from_str(typed: &str) -> Result<Self, String> {
        let wrong = || format!("'{typed}' is no time: write 1s to 30d, with s, m, h or d");
        let (digits, unit) = typed.split_at_checked(typed.len().saturating_sub(1)).ok_or_else(wrong)?;
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 24 * 3600,
            _ => return Err(wrong()),
        };
        let number =
            digits.parse::<u32>().ok().filter(|_| digits.bytes().all(|digit| digit.is_ascii_digit()));
        let total = number.and_then(|number| number.checked_mul(seconds));
        total.filter(|total| (1..=30 * 24 * 3600).contains(total)).map(Self).ok_or_else(wrong)
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    arguments.reach.run(async |client| {
        let drains: Api<NodeDrain> = Api::all(client.clone());
        let change = match (arguments.stop, arguments.resume, arguments.cancel) {
            (true, ..) => Some(Change::Stop),
            (_, true, _) => Some(Change::Resume),
            (.., true) => Some(Change::Cancel),
            _ => None,
        };
        if let Some(change) = change {
            return change_of_nodes(arguments, &drains, change).await;
        }
        if arguments.dry_run {
            return dry_run(arguments, &client).await;
        }
        let name = match active(&drains, |spec| spec.nodes == arguments.nodes).await? {
            Some(name) => {
                output::say!("{name} drains these nodes already");
                name
            }
            None => begin(arguments, &drains, &client).await?,
        };
        if arguments.detach {
            return Ok(ExitCode::SUCCESS);
        }
        watch::watch(&drains, &name).await
    })
}

async fn dry_run(arguments: &Arguments, client: &Client) -> Result<ExitCode, Box<dyn Error>> {
    let plan = plan(arguments, client).await?;
    show::plan(&plan);
    let is_whole = plan.blocked == 0 && plan.nodes.iter().all(|node| node.why_not.is_none());
    let is_well = is_whole && plan.in_time != Some(false);
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn plan(
    arguments: &Arguments,
    client: &Client,
) -> Result<objects::NodeDrainPlanStatus, Box<dyn Error>> {
    let asked = NodeDrainPlanSpec {
        nodes: arguments.nodes.clone(),
        deadline_seconds: arguments.deadline.map(|seconds| seconds.0),
        min_available: Some(arguments.min_available),
    };
    Ok(fleet::drain::plan(&world(client).await?, &asked))
}

/// Asks for a drain, having shown what will become of it, and returns its name.
async fn begin(
    arguments: &Arguments,
    drains: &Api<NodeDrain>,
    client: &Client,
) -> Result<String, Box<dyn Error>> {
    let plan = plan(arguments, client).await?;
    let wish = NodeDrain {
        metadata: ObjectMeta { generate_name: Some("drain-".to_owned()), ..ObjectMeta::default() },
        spec: NodeDrainSpec {
            nodes: arguments.nodes.clone(),
            deadline_seconds: arguments.deadline.map(|seconds| seconds.0),
            min_available: Some(arguments.min_available),
            ..NodeDrainSpec::default()
        },
        status: None,
    };
    let name = done(drains.create(&PostParams::default(), &wish)).await?.name_any();
    output::say!("{name} was made");
    show::summary(&plan);
    Ok(name)
}

/// What people do to a drain that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Stop,
    Resume,
    Cancel,
}

impl Change {
    fn patch(self) -> Value {
        match self {
            Self::Stop => json!({ "spec": { "paused": true } }),
            Self::Resume => json!({ "spec": { "paused": false } }),
            Self::Cancel => json!({ "spec": { "cancel": true } }),
        }
    }

    fn said(self) -> &'static str {
        match self {
            Self::Stop => "begins nothing more; migrations under way go on",
            Self::Resume => "goes on",
            Self::Cancel => "is given up; migrations under way go on",
        }
    }
}

async fn change_of_nodes(
    arguments: &Arguments,
    drains: &Api<NodeDrain>,
    change: Change,
) -> Result<ExitCode, Box<dyn Error>> {
    let names_one = |spec: &NodeDrainSpec| spec.nodes.iter().any(|node| arguments.nodes.contains(node));
    let name = active(drains, names_one).await?;
    let name = name.ok_or_else(|| format!("No drain of {} goes on", arguments.nodes.join(", ")))?;
    make(drains, &name, change).await?;
    Ok(ExitCode::SUCCESS)
}

async fn make(drains: &Api<NodeDrain>, name: &str, change: Change) -> Result<(), Box<dyn Error>> {
    done(drains.patch(name, &PatchParams::default(), &Patch::Merge(change.patch()))).await?;
    output::say!("{name} {}", change.said());
    Ok(())
}

/// The drain that goes on and that is so.
async fn active(
    drains: &Api<NodeDrain>,
    is_it: impl Fn(&NodeDrainSpec) -> bool,
) -> Result<Option<String>, Box<dyn Error>> {
    let all = done(drains.list(&ListParams::default())).await?;
    let is_active = |drain: &NodeDrain| {
        !drain.status.as_ref().map(NodeDrainStatus::phase).unwrap_or_default().is_final()
            && !drain.spec.cancel
    };
    let found = all.items.iter().find(|drain| is_active(drain) && is_it(&drain.spec));
    Ok(found.map(ResourceExt::name_any))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_typed_with_a_unit() {
        assert_eq!("10m".parse(), Ok(Seconds(600)));
        assert_eq!("90s".parse(), Ok(Seconds(90)));
        assert_eq!("30d".parse(), Ok(Seconds(2_592_000)));
        for wrong in ["", "s", "10", "0s", "+1s", "-1s", "1.5h", "31d", "99999999999s", "1é"] {
            assert!(wrong.parse::<Seconds>().is_err(), "{wrong}");
        }
    }
}
