use serde::{Deserialize, Serialize};
use state::{Schema, Value};

use super::Mac;

/// What the guest knows of its network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetV2 {
    /// Hardware address in use; the guest may have changed it.
    pub mac: Mac,
    /// Hardware address that the machine was given when it was started first, and which a reset brings back.
    pub permanent_mac: Mac,
    /// The guest was asked to announce itself and has not done so.
    pub announce: bool,
}

/// As it was before a machine took its permanent address along.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NetV1 {
    mac: Mac,
    announce: bool,
}

impl Schema for NetV2 {
    const KIND: &'static str = "virtio-net";
    const VERSION: u32 = 2;
    const OLDEST: u32 = 1;

    fn older(_: u32, body: Value) -> Result<Self, String> {
        let NetV1 { mac, announce } = body.deserialized().map_err(|error| error.to_string())?;
        // What few guests change: the best that is known.
        Ok(Self { mac, permanent_mac: mac, announce })
    }
}
