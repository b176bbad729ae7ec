use serde::{Deserialize, Serialize};
use state::Schema;

/// The controller remembers nothing; the state says that the machine has one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct I8042V1 {}

impl Schema for I8042V1 {
    const KIND: &'static str = "i8042";
    const VERSION: u32 = 1;
}
