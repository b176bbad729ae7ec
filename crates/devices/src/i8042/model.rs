use std::sync::Arc;

use state::{DeviceState, StateError};

use super::I8042V1;
use crate::{BusDevice, Lifecycle, MachineRequests};

/// First I/O port.
pub const PORT: u16 = 0x60;

/// I/O ports from [`PORT`] on. Only data (0x60) and command/status (0x64) are the controller's; 0x61, the speaker gate,
/// reads as zero where the kernel's PIT does not take it first.
pub const PORTS: u16 = 5;

const DATA: u64 = 0;
const COMMAND: u64 = 4;

/// Pulse output line 0, which is the processor's reset.
const PULSE_RESET: u8 = 0xfe;

/// Status: output buffer full for ever, input buffer empty.
///
/// A Linux driver that probes the controller drains it first, and takes one that cannot be drained for absent after 16
/// reads (drivers/input/serio/i8042.c, i8042_controller_check). Every other answer has it wait half a second for a
/// controller that never replies. The empty input buffer lets the reset path through without waiting (kb_wait).
const STATUS_NOBODY: u8 = 0x01;

/// A keyboard controller without a keyboard: command 0xFE at port 0x64 resets the machine, nothing else works.
#[derive(Debug)]
pub struct I8042 {
    machine: Arc<dyn MachineRequests>,
}

impl I8042 {
    /// The controller of `machine`.
    #[must_use]
    pub fn new(machine: Arc<dyn MachineRequests>) -> Self {
        Self { machine }
    }

    /// The controller as it was saved.
    ///
    /// # Errors
    /// The state is of another device.
    pub fn restore(machine: Arc<dyn MachineRequests>, state: &DeviceState) -> Result<Self, StateError> {
        let I8042V1 {} = state.decode()?;
        Ok(Self { machine })
    }
}

impl BusDevice for I8042 {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let (COMMAND, Some(status)) = (offset, data.first_mut()) {
            *status = STATUS_NOBODY;
        } else if let (DATA, Some(byte)) = (offset, data.first_mut()) {
            *byte = 0xff;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if offset == COMMAND && data.first() == Some(&PULSE_RESET) {
            self.machine.reset();
        }
    }
}

impl Lifecycle for I8042 {
    fn save(&self, id: &str) -> Result<DeviceState, StateError> {
        DeviceState::encode(id, &I8042V1 {})
    }

    fn reset(&mut self) {}
}
