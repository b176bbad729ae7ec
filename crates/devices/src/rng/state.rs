use serde::{Deserialize, Serialize};
use state::{Schema, Value, not_read};

/// The entropy source remembers nothing beyond its transport.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RngV1 {}

impl Schema for RngV1 {
    const KIND: &'static str = "virtio-rng";
    const VERSION: u32 = 1;

    fn older(version: u32, _: Value) -> Result<Self, String> {
        not_read(version)
    }
}
