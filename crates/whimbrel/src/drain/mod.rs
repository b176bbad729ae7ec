//! `whimbrel drain`, `cordon` and `uncordon`: nodes are emptied, and taken back into use.

mod cordon;
mod show;
mod watch;

use std::{error::Error, process::ExitCode};

use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use objects::{NodeDrain, NodeDrainPlanSpec, NodeDrainSpec, NodeDrainStatus};
use serde_json::{Value, json};

use crate::{
    reach::{Reach, done, world},
    seconds::Seconds,
};

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
    /// How many nodes stay ready and schedulable at any time [default: 1]
    #[arg(long, value_name = "N")]
    min_available: Option<u32>,
    /// Show what would become of it, and do nothing. The exit status is 0 if all machines can move, in time
    #[arg(long)]
    dry_run: bool,
    /// Do not wait for the end
    #[arg(long)]
    detach: bool,
    /// Begin nothing more for now in all drains that name one of these nodes
    #[arg(long, group = "change", conflicts_with_all = ["dry_run", "deadline", "min_available"])]
    stop: bool,
    /// Take all drains that name one of these nodes up again
    #[arg(long, group = "change", conflicts_with_all = ["dry_run", "deadline", "min_available"])]
    resume: bool,
    /// Give up all drains that name one of these nodes
    #[arg(long, group = "change", conflicts_with_all = ["dry_run", "deadline", "min_available"])]
    cancel: bool,
    #[command(flatten)]
    reach: Reach,
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
        let same = active(&drains, |spec| spec.nodes == arguments.nodes).await?;
        let name = match same.into_iter().next() {
            Some(name) => {
                output::say!("{name} drains these nodes already");
                adjust(arguments, &drains, &name).await?;
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

/// Gives a drain that goes on the options that were typed.
async fn adjust(arguments: &Arguments, drains: &Api<NodeDrain>, name: &str) -> Result<(), Box<dyn Error>> {
    let Some(spec) = typed(arguments) else { return Ok(()) };
    done(drains.patch(name, &PatchParams::default(), &Patch::Merge(json!({ "spec": spec })))).await?;
    output::say!("{name} goes by the new options: {spec}");
    Ok(())
}

/// The options that were typed, as fields of a drain; `None` if there are none.
fn typed(arguments: &Arguments) -> Option<Value> {
    let deadline = arguments.deadline.map(|seconds| ("deadlineSeconds".to_owned(), json!(seconds.0)));
    let min = arguments.min_available.map(|min| ("minAvailable".to_owned(), json!(min)));
    let fields: serde_json::Map<_, _> = deadline.into_iter().chain(min).collect();
    (!fields.is_empty()).then(|| fields.into())
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
        min_available: Some(arguments.min_available.unwrap_or(objects::MIN_AVAILABLE)),
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
            min_available: Some(arguments.min_available.unwrap_or(objects::MIN_AVAILABLE)),
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
    let names = active(drains, names_one).await?;
    if names.is_empty() {
        return Err(format!("No drain of {} goes on", arguments.nodes.join(", ")).into());
    }
    for name in &names {
        make(drains, name, change).await?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn make(drains: &Api<NodeDrain>, name: &str, change: Change) -> Result<(), Box<dyn Error>> {
    done(drains.patch(name, &PatchParams::default(), &Patch::Merge(change.patch()))).await?;
    output::say!("{name} {}", change.said());
    Ok(())
}

/// The drains that go on and that are so.
async fn active(
    drains: &Api<NodeDrain>,
    is_it: impl Fn(&NodeDrainSpec) -> bool,
) -> Result<Vec<String>, Box<dyn Error>> {
    let all = done(drains.list(&ListParams::default())).await?;
    let is_active = |drain: &NodeDrain| {
        !drain.status.as_ref().map(NodeDrainStatus::phase).unwrap_or_default().is_final()
            && !drain.spec.cancel
    };
    let found = all.items.iter().filter(|drain| is_active(drain) && is_it(&drain.spec));
    Ok(found.map(ResourceExt::name_any).collect())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn only_what_was_typed_changes_a_drain_that_goes_on() {
        let typed = |line: &[&str]| typed(&Line::try_parse_from(line).unwrap().arguments);
        assert_eq!(typed(&["drain", "a"]), None);
        assert_eq!(typed(&["drain", "a", "--min-available", "3"]), Some(json!({ "minAvailable": 3 })));
        assert_eq!(typed(&["drain", "a", "--deadline", "1m"]), Some(json!({ "deadlineSeconds": 60 })));
    }
}
