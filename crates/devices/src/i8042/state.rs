use serde::{Deserialize, Serialize};
use state::{Schema, Value, not_read};

/// The controller remembers nothing; the state says that the machine has one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct I8042V1 {}

impl Schema for I8042V1 {
    const KIND: &'static str = "i8042";
    const VERSION: u32 = 1;

    fn older(version: u32, _: Value) -> Result<Self, String> {
        not_read(version)
    }
}
