use serde::{Deserialize, Serialize};
use state::{Schema, Value, not_read};

/// The power device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PowerV1 {
    /// Events that the guest has not read.
    pub events: u32,
    /// Last value of the sleep control register, without SLP_EN.
    pub sleep_control: u8,
}

impl Schema for PowerV1 {
    const KIND: &'static str = "acpi-power";
    const VERSION: u32 = 1;

    fn older(version: u32, _: Value) -> Result<Self, String> {
        not_read(version)
    }
}
