use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Origin {
    /// The migration itself says so.
    Migration,
    /// The policy says so.
    Policy,
    /// The settings of the fleet say so.
    Fleet,
    /// Nobody said otherwise.
    Default,
}
