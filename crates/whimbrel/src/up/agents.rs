//! Which agent has what belongs to an object.

use std::path::{Path, PathBuf};

use apiserver::{Calls, Errand};
use objects::{VirtualMachineInstance, VirtualMachineInstanceMigration};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Agents, and what the control plane shows to them.
#[derive(Clone, Debug)]
pub(crate) struct Agents {
    /// The directory with the control plane's certificate.
    pub(crate) tls: PathBuf,
    /// The calls that are being made to them.
    pub(crate) calls: Calls,
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

    fn calls(&self) -> &Calls {
        &self.calls
    }
}

/// Something of the VMM that an instance runs in.
pub(super) fn of_instance(instance: &VirtualMachineInstance, what: &str) -> Result<Errand, String> {
    let status = instance.status.clone().unwrap_or_default();
    let (Some(node), Some(vmm)) = (status.node_name, status.vmm) else {
        return Err("it has no VMM now".to_owned());
    };
    Ok(Errand { node, path: format!("/vmms/{}/{what}", word(&vmm)?) })
}

fn report(migration: &VirtualMachineInstanceMigration) -> Result<Errand, String> {
    let state = migration.status.clone().unwrap_or_default().migration_state.unwrap_or_default();
    let session = state.result.and_then(|result| result.session);
    let (Some(node), Some(vmm), Some(session)) = (state.source_node, state.source_vmm, session) else {
        return Err("the engine has not begun, or is not over".to_owned());
    };
    Ok(Errand { node, path: format!("/vmms/{}/report?session={}", word(&vmm)?, word(&session)?) })
}

/// A name that an agent has written, if it can be part of a path: one that lies would have another agent asked for something else.
fn word(name: &str) -> Result<&str, String> {
    let is_letter = |letter: u8| letter.is_ascii_alphanumeric() || matches!(letter, b'-' | b'.' | b'_');
    let is_word = name.bytes().all(is_letter) && name.bytes().any(|letter| letter != b'.');
    is_word.then_some(name).ok_or_else(|| format!("its status has {name:?}, which can be no name"))
}

fn read<T: DeserializeOwned>(object: &Value) -> Result<T, String> {
    serde_json::from_value(object.clone()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_has_written_does_not_lead_elsewhere() {
        for name in ["busy-1a2b", "0193ab", "a.b_c"] {
            assert_eq!(word(name), Ok(name));
        }
        for wrong in ["", ".", "..", "x&a=b", "../log", "other/log?", "a b", "%2e", "a#"] {
            assert!(word(wrong).is_err(), "{wrong}");
        }
    }
}
