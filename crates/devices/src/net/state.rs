use serde::{Deserialize, Serialize};
use state::Schema;

use super::Mac;

/// What the guest knows of its network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetV1 {
    /// Hardware address; the guest may have changed it.
    pub mac: Mac,
    /// The guest was asked to announce itself and has not done so.
    pub announce: bool,
}

impl Schema for NetV1 {
    const KIND: &'static str = "virtio-net";
    const VERSION: u32 = 1;
}
