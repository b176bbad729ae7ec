use std::{error::Error, process::ExitCode};

use k8s_openapi::api::core::v1::Node;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use objects::{NodeDrain, NodeDrainPhase};
use serde_json::json;

use crate::reach::{Reach, done};

/// Nodes.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The nodes
    #[arg(value_name = "NODE", required = true)]
    nodes: Vec<String>,
    #[command(flatten)]
    reach: Reach,
}

/// Has nothing new placed on nodes, or ends that.
pub(crate) fn run(arguments: &Arguments, is_cordoned: bool) -> Result<ExitCode, Box<dyn Error>> {
    arguments.reach.run(async |client| {
        let nodes: Api<Node> = Api::all(client.clone());
        let drains: Api<NodeDrain> = Api::all(client);
        for name in &arguments.nodes {
            if let Some(drain) = drained_by(&drains, name).await?.filter(|_| !is_cordoned) {
                return Err(format!(
                    "{name} is being emptied by {drain}, which would cordon it again: whimbrel drain --cancel {name}"
                )
                .into());
            }
            let patch = Patch::Merge(json!({ "spec": { "unschedulable": is_cordoned } }));
            done(nodes.patch(name, &PatchParams::default(), &patch)).await?;
            output::say!("{name} {}", if is_cordoned { "takes nothing new" } else { "is in use again" });
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// The drain that empties a node right now.
async fn drained_by(drains: &Api<NodeDrain>, node: &str) -> Result<Option<String>, Box<dyn Error>> {
    let all = done(drains.list(&kube::api::ListParams::default())).await?;
    let empties = |drain: &NodeDrain| {
        let Some(status) = drain.status.as_ref().filter(|status| !status.phase().is_final()) else {
            return false;
        };
        status.nodes.iter().any(|one| one.name == node && one.phase == NodeDrainPhase::Draining)
    };
    let found = all.items.into_iter().find(|drain| empties(drain) && !drain.spec.cancel);
    Ok(found.and_then(|drain| drain.metadata.name))
}
