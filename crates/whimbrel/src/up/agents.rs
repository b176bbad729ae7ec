//! Which agent has what belongs to an object.

use std::path::{Path, PathBuf};

use apiserver::Errand;
use objects::{VirtualMachineInstance, VirtualMachineInstanceMigration};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Agents, and what the control plane shows to them.
#[derive(Clone, Debug)]
pub(crate) struct Agents {
    /// The directory with the control plane's certificate.
    pub(crate) tls: PathBuf,
}

impl apiserver::Agents for Agents {
    fn errand(&self, _: &str, subresource: &str, object: &Value) -> Result<Errand, String> {
        match subresource {
            "log" | "console" | "metrics" => of_instance(&read(object)?, subresource),
            "report" => report(&read(object)?),
            _ => Err(format!("there is no {subresource}")),
        }
    }

    fn tls(&self) -> &Path {
        &self.tls
    }
}

/// Something of the VMM that an instance runs in.
pub(super) fn of_instance(instance: &VirtualMachineInstance, what: &str) -> Result<Errand, String> {
    let status = instance.status.clone().unwrap_or_default();
    let (Some(node), Some(vmm)) = (status.node_name, status.vmm) else {
        return Err("it has no VMM now".to_owned());
    };
    Ok(Errand { node, path: format!("/vmms/{vmm}/{what}") })
}

fn report(migration: &VirtualMachineInstanceMigration) -> Result<Errand, String> {
    let state = migration.status.clone().unwrap_or_default().migration_state.unwrap_or_default();
    let session = state.result.and_then(|result| result.session);
    let (Some(node), Some(vmm), Some(session)) = (state.source_node, state.source_vmm, session) else {
        return Err("the engine has not begun, or is not over".to_owned());
    };
    Ok(Errand { node, path: format!("/vmms/{vmm}/report?session={session}") })
}

fn read<T: DeserializeOwned>(object: &Value) -> Result<T, String> {
    serde_json::from_value(object.clone()).map_err(|error| error.to_string())
}
