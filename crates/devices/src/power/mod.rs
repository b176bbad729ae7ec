//! The ACPI power device: power button, soft-off and reset, in the way of hardware-reduced ACPI.
//!
//! # Registers
//! Eight bytes, [`PORTS`] of them from a base that the machine chooses (I/O ports or memory):
//!
//! | offset | width | access | what |
//! |---|---|---|---|
//! | [`EVENTS`] | 32 | read | events since the last read, cleared by reading; bit [`EVENT_POWER_BUTTON`] |
//! | [`SLEEP_CONTROL`] | 8 | read/write | ACPI SLEEP_CONTROL_REG (ACPI 6.5, 4.8.3.7): SLP_TYP in bits 2–4, SLP_EN bit 5 |
//! | [`SLEEP_STATUS`] | 8 | read/write | ACPI SLEEP_STATUS_REG: WAK_STS bit 7, which is never set: there is no S1–S4 |
//! | [`RESET`] | 8 | write | ACPI RESET_REG: writing [`RESET_VALUE`] resets the machine |
//!
//! # What the tables say
//! FADT: HW_REDUCED_ACPI and RESET_REG_SUP set, SLEEP_CONTROL_REG, SLEEP_STATUS_REG, RESET_REG as above and RESET_VALUE.
//! DSDT: `\_S5 = Package { 5, 0, 0, 0 }` ([`SLEEP_TYPE_S5`]); a power button `PWRB` (`PNP0C0C`); and a generic event device
//! (`ACPI0013`) whose `_CRS` is the device's interrupt (edge, active high, exclusive) and whose `_EVT` reads EVENTS once
//! into a local and, with bit 0 set, does `Notify (PWRB, 0x80)`.

mod model;
mod state;
#[cfg(test)]
mod tests;

pub use model::{
    EVENT_POWER_BUTTON, EVENTS, PORTS, Power, RESET, RESET_VALUE, SLEEP_CONTROL, SLEEP_STATUS, SLEEP_TYPE_S5,
};
pub use state::PowerV1;
