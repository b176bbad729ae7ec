use serde::{Deserialize, Serialize};
use state::{Schema, Value, not_read};

/// The keyboard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyboardV1 {
    /// What the guest selected in the configuration space.
    pub select: u8,
    /// The part of it.
    pub subselect: u8,
    /// Keys that are down, as evdev codes in rising order.
    pub down: Vec<u16>,
    /// Events that the guest has not taken, oldest first.
    pub pending: Vec<EventV1>,
}

/// An input event as the guest reads it (spec, 5.8.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventV1 {
    /// EV_SYN or EV_KEY.
    pub kind: u16,
    /// Key code.
    pub code: u16,
    /// 1 for down, 0 for up.
    pub value: u32,
}

impl Schema for KeyboardV1 {
    const KIND: &'static str = "virtio-input-keyboard";
    const VERSION: u32 = 1;

    fn older(version: u32, _: Value) -> Result<Self, String> {
        not_read(version)
    }
}
