use std::{fmt::Debug, path::Path};

use serde_json::Value;

use crate::Calls;

/// What is to be had from the agent of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errand {
    /// The node's name, which its certificate has.
    pub node: String,
    /// Path and query at the agent.
    pub path: String,
}

/// Whoever knows which agent has what belongs to an object, and who this server is to agents.
pub trait Agents: Debug + Send + Sync {
    /// Where that subresource of an object of a kind is to be had.
    ///
    /// # Errors
    /// It is nowhere: a sentence for whoever asks.
    fn errand(&self, kind: &str, subresource: &str, object: &Value) -> Result<Errand, String>;

    /// The directory with what this server shows to agents (`client-cert.pem`, `client-key.pem`), and whom it trusts (`ca-cert.pem`). It is
    /// read for each call: certificates are renewed.
    fn tls(&self) -> &Path;

    /// The calls that are being made, whoever makes them.
    fn calls(&self) -> &Calls;
}
