use serde::{Deserialize, Serialize};
use state::Schema;

use super::Mac;

/// What the guest knows of its network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetV1 {
    /// Hardware address in use; the guest may have changed it.
    pub mac: Mac,
    /// Hardware address that the machine was given when it was started first, and which a reset brings back.
    pub permanent_mac: Mac,
    /// The guest was asked to announce itself and has not done so.
    pub announce: bool,
}

impl Schema for NetV1 {
    const KIND: &'static str = "virtio-net";
    const VERSION: u32 = 1;
}
