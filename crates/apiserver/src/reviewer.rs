use std::fmt::Debug;

use serde_json::Value;

/// Whoever knows the answers.
pub trait Reviewer: Debug + Send + Sync {
    /// The status of a question of this kind. `all` has the objects of a kind, by its plural, in all namespaces.
    ///
    /// # Errors
    /// There is no answer: a sentence for whoever asks.
    fn review(&self, kind: &str, question: &Value, all: &dyn Fn(&str) -> Vec<Value>)
    -> Result<Value, String>;
}
