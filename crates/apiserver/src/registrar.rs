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
}
