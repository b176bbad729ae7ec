use serde::{Deserialize, Serialize};
use state::{Schema, Value, not_read};

/// The balloon. Statistics are the host's own memory of what the guest said, and are asked for again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BalloonV1 {
    /// Pages of 4 KiB that the guest should put into the balloon.
    pub target_pages: u32,
    /// Pages of 4 KiB that the guest says are in the balloon.
    pub actual_pages: u32,
    /// The value that the guest fills free pages with.
    pub poison: u32,
}

impl Schema for BalloonV1 {
    const KIND: &'static str = "virtio-balloon";
    const VERSION: u32 = 1;

    fn older(version: u32, _: Value) -> Result<Self, String> {
        not_read(version)
    }
}
