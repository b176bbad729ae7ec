use std::fmt::Debug;

use serde_json::Value;

/// Whoever has the authority of the fleet, and makes what nodes need.
pub trait Registrar: Debug + Send + Sync {
    /// What a node of this name with these addresses needs, as it will find it in the reply, and its token. `is_new` says that it must not be
    /// known yet; otherwise its certificates are renewed.
    ///
    /// # Errors
    /// The name is taken or cannot be, or certificates cannot be made: a sentence for whoever joins.
    fn register(&self, node: &str, addresses: &[String], is_new: bool) -> Result<(Value, String), String>;

    /// Takes back what a node was given: its token and its certificates are good for nothing any more, here and, as soon as they hear of it, at the
    /// other nodes. A node that was given nothing is forgotten already.
    ///
    /// # Errors
    /// It cannot be taken back: a sentence for whoever removes the node.
    fn forget(&self, node: &str) -> Result<(), String>;

    /// The certificates that were taken back, as nodes keep them; `None` while there are none.
    ///
    /// # Errors
    /// They cannot be read: a sentence for whoever asks.
    fn revoked(&self) -> Result<Option<String>, String>;
}
