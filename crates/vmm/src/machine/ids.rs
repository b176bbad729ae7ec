//! By which ids the devices of a machine are known: to both sides of a migration in the handshake and with their states, and to
//! users in messages.

pub(super) const IRQCHIP: &str = "irqchip";
pub(super) const PIT: &str = "pit";
pub(super) const CLOCK: &str = "clock";
pub(super) const REQUESTS: &str = "requests";
pub(super) const SERIAL: &str = "serial0";
pub(super) const RTC: &str = "rtc0";
pub(super) const I8042: &str = "i8042";
pub(super) const POWER: &str = "power0";
pub(super) const RNG: &str = "rng0";
pub(super) const BALLOON: &str = "balloon0";
pub(super) const KEYBOARD: &str = "keyboard0";

/// vCPU number `index`.
pub(super) fn vcpu(index: u8) -> String {
    format!("vcpu{index}")
}

/// Disk number `index`.
pub(crate) fn disk(index: usize) -> String {
    format!("disk{index}")
}

/// Network card number `index`.
pub(super) fn net(index: usize) -> String {
    format!("net{index}")
}
