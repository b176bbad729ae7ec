//! What clients ask of the fleet beside its objects: the answers are those of `whimbrel plan`, `whimbrel policy try` and
//! `whimbrel drain --dry-run`.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use fleet::World;
use kube::core::ObjectMeta;
use objects::{MigrationPlan, MigrationPolicy, MigrationPolicyPreview, NodeDrainPlan};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{agents::Agents, forecasts};

/// Answers from the objects as they are.
#[derive(Debug)]
pub(crate) struct Questions {
    pub(crate) agents: Agents,
}

impl apiserver::Reviewer for Questions {
    fn review(
        &self,
        kind: &str,
        question: &Value,
        all: &dyn Fn(&str) -> Vec<Value>,
    ) -> Result<Value, String> {
        match kind {
            "MigrationPlan" => self.plan(&read(question)?, &world(all)),
            "NodeDrainPlan" => {
                let asked: NodeDrainPlan = read(question)?;
                serde_json::to_value(fleet::drain::plan(&world(all), &asked.spec))
                    .map_err(|error| error.to_string())
            }
            "MigrationPolicyPreview" => {
                let asked: MigrationPolicyPreview = read(question)?;
                let name = asked.spec.policy_name;
                let wanted = asked.spec.policy.map(|spec| MigrationPolicy {
                    metadata: ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() },
                    spec,
                });
                serde_json::to_value(fleet::preview::preview(&world(all), &name, wanted))
                    .map_err(|error| error.to_string())
            }
            "ControlPlaneReview" => Ok(self.control_plane()),
            _ => Err(format!("nobody knows about a {kind}")),
        }
    }
}

impl Questions {
    fn control_plane(&self) -> Value {
        let loss =
            "nobody can be sure any more that this is the control plane: neither people nor agents reach it";
        let certificates = node::certificates_condition(&self.agents.tls, loss, SystemTime::now());
        json!({ "version": release::VERSION, "conditions": [certificates] })
    }

    fn plan(&self, asked: &MigrationPlan, world: &World) -> Result<Value, String> {
        let namespace = asked.metadata.namespace.as_deref().unwrap_or_default();
        let name = &asked.spec.vmi_name;
        let instance = world.instance(namespace, name).ok_or_else(|| {
            format!("{name} does not run: there is no such instance in namespace {namespace}")
        })?;
        let mut status = fleet::plan::plan(world, instance, &asked.spec).status();
        let foretold = if asked.spec.forecast {
            forecasts::add(&mut status, world, instance, &self.agents)
        } else {
            Err("it was not asked for (spec.forecast)".to_owned())
        };
        status.no_forecast = foretold.err();
        serde_json::to_value(status).map_err(|error| error.to_string())
    }
}

fn read<T: DeserializeOwned>(question: &Value) -> Result<T, String> {
    serde_json::from_value(question.clone()).map_err(|error| error.to_string())
}

/// All objects. One that nobody understands is left out, as it is when something is decided.
fn world(all: &dyn Fn(&str) -> Vec<Value>) -> World {
    fn of<T: DeserializeOwned>(objects: Vec<Value>) -> Vec<Arc<T>> {
        objects.into_iter().filter_map(|object| serde_json::from_value(object).ok()).map(Arc::new).collect()
    }
    World {
        machines: of(all("virtualmachines")),
        instances: of(all("virtualmachineinstances")),
        migrations: of(all("virtualmachineinstancemigrations")),
        policies: of(all("migrationpolicies")),
        fleets: of(all("fleets")),
        nodes: of(all("nodes")),
        // The controllers have seen when these were renewed: it is in the conditions of nodes. What they say is by other clocks.
        leases: Vec::new(),
        heard: BTreeMap::new(),
        drains: of(all("nodedrains")),
        namespaces: of(all("namespaces")),
    }
}
