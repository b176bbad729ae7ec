//! What the nodes of this host keep for people to read.

use std::io;

use apiserver::{Archive, Kept};
use objects::{VirtualMachineInstance, VirtualMachineInstanceMigration};
use serde_json::Value;

use super::Site;

/// How much of a serial log is shown, in bytes: its end.
const TAIL: u64 = 64 << 10;

/// The files of nodes that this process plays. What nodes on other hosts keep, stays there.
#[derive(Debug)]
pub(crate) struct OwnNodes {
    /// Where they are.
    pub(crate) site: Site,
    /// Their names.
    pub(crate) names: Vec<String>,
}

impl OwnNodes {
    fn check(&self, node: &str) -> Result<(), String> {
        if self.names.iter().any(|name| name == node) {
            return Ok(());
        }
        Err(format!("node {node} is on another host, and keeps it there in its directory"))
    }

    fn log(&self, object: &Value) -> Result<Kept, String> {
        let instance: VirtualMachineInstance = read(object)?;
        let status = instance.status.unwrap_or_default();
        let (Some(node), Some(vmm)) = (status.node_name, status.vmm) else {
            return Err("it has no VMM now".to_owned());
        };
        self.check(&node)?;
        let tail = node::serial_tail(&self.site.node(&node), &vmm, TAIL).map_err(|error| told(&error))?;
        let bytes = tail.ok_or("its VMM has gone, and the log with it")?;
        Ok(Kept { media_type: "text/plain; charset=utf-8", bytes })
    }

    fn report(&self, object: &Value) -> Result<Kept, String> {
        let migration: VirtualMachineInstanceMigration = read(object)?;
        let state = migration.status.unwrap_or_default().migration_state.unwrap_or_default();
        let session = state.result.and_then(|result| result.session);
        let (Some(node), Some(vmm), Some(session)) = (state.source_node, state.source_vmm, session) else {
            return Err("the engine has not begun, or is not over".to_owned());
        };
        self.check(&node)?;
        let report = node::report(&self.site.node(&node), &vmm, &session).map_err(|error| told(&error))?;
        let bytes = report.ok_or("there is no report of it")?;
        Ok(Kept { media_type: "application/json", bytes })
    }
}

impl Archive for OwnNodes {
    fn read(&self, _: &str, file: &str, object: &Value) -> Result<Kept, String> {
        match file {
            "log" => self.log(object),
            "report" => self.report(object),
            _ => Err(format!("there is no {file}")),
        }
    }
}

fn read<T: serde::de::DeserializeOwned>(object: &Value) -> Result<T, String> {
    serde_json::from_value(object.clone()).map_err(|error| error.to_string())
}

fn told(error: &io::Error) -> String {
    format!("it cannot be read: {error}")
}
