use serde::{Deserialize, Serialize};
use state::{Schema, Value, not_read};

/// The clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RtcV1 {
    /// Register that the data port stands for.
    pub index: u8,
    /// All 128 bytes. Those of the time count only while it is being set (bit 7 of register B).
    #[serde(with = "serde_bytes")]
    pub memory: Vec<u8>,
    /// Seconds that the guest's clock is ahead of the host's, because the guest set it.
    pub offset_seconds: i64,
}

impl Schema for RtcV1 {
    const KIND: &'static str = "rtc-cmos";
    const VERSION: u32 = 1;

    fn older(version: u32, _: Value) -> Result<Self, String> {
        not_read(version)
    }
}
