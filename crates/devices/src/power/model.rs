use std::sync::Arc;

use state::{DeviceState, StateError};

use super::PowerV1;
use crate::{BusDevice, Interrupt, Invalid, IoDevice, Lifecycle, MachineRequests, Watch, virtio::read_from};

/// Bytes of registers.
pub const PORTS: u16 = 8;
/// Offset of the event register.
pub const EVENTS: u64 = 0;
/// Offset of the sleep control register.
pub const SLEEP_CONTROL: u64 = 4;
/// Offset of the sleep status register.
pub const SLEEP_STATUS: u64 = 5;
/// Offset of the reset register.
pub const RESET: u64 = 6;
/// The value that resets the machine when it is written to [`RESET`].
pub const RESET_VALUE: u8 = 0x42;
/// SLP_TYP of soft-off, for the `\_S5` package.
pub const SLEEP_TYPE_S5: u8 = 5;
/// The bit in [`EVENTS`] of a pressed power button.
pub const EVENT_POWER_BUTTON: u32 = 1;

/// SLP_EN in the sleep control register (ACPI 6.5, table 4.20); always reads as zero.
const SLEEP_ENABLE: u8 = 1 << 5;
/// SLP_TYP in the sleep control register.
const SLEEP_TYPE_SHIFT: u8 = 2;
const SLEEP_TYPE_MASK: u8 = 0b111 << SLEEP_TYPE_SHIFT;

/// The power device of a machine.
#[derive(Debug)]
pub struct Power {
    machine: Arc<dyn MachineRequests>,
    interrupt: Arc<dyn Interrupt>,
    events: u32,
    sleep_control: u8,
}

impl Power {
    /// The power device of `machine`; `interrupt` is the line of the generic event device.
    #[must_use]
    pub fn new(machine: Arc<dyn MachineRequests>, interrupt: Arc<dyn Interrupt>) -> Self {
        Self { machine, interrupt, events: 0, sleep_control: 0 }
    }

    /// The power device as it was saved.
    ///
    /// # Errors
    /// The state is of another device, or cannot be true.
    pub fn restore(
        machine: Arc<dyn MachineRequests>,
        interrupt: Arc<dyn Interrupt>,
        state: &DeviceState,
    ) -> Result<Self, StateError> {
        let PowerV1 { events, sleep_control } = state.decode()?;
        let possible = events & !EVENT_POWER_BUTTON == 0 && sleep_control & SLEEP_ENABLE == 0;
        Invalid::unless(possible, || format!("events {events:#x}, sleep control {sleep_control:#x}"))
            .map_err(|invalid| invalid.of::<PowerV1>(&state.id))?;
        Ok(Self { machine, interrupt, events, sleep_control })
    }

    /// Presses the power button: a guest with ACPI shuts down in its own time, another one takes no notice.
    pub fn press_power_button(&mut self) {
        self.events |= EVENT_POWER_BUTTON;
        self.interrupt.trigger();
    }
}

/// The device works on no descriptors.
impl IoDevice for Power {
    fn watches(&self) -> Vec<Watch> {
        Vec::new()
    }

    fn ready(&mut self, _token: u32) {}

    /// Raises the interrupt again if the guest has events to read: the edge may have been lost with the machine that was
    /// saved.
    fn kick(&mut self) {
        if self.events != 0 {
            self.interrupt.trigger();
        }
    }
}

impl BusDevice for Power {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let mut registers = [0; PORTS as usize];
        if offset == EVENTS {
            registers[..4].copy_from_slice(&self.events.to_le_bytes());
            self.events = 0;
        }
        registers[SLEEP_CONTROL as usize] = self.sleep_control;
        read_from(&registers, offset, data);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let Some(value) = data.first().copied() else { return };
        match offset {
            SLEEP_CONTROL => {
                self.sleep_control = value & !SLEEP_ENABLE;
                let sleep_type = (value & SLEEP_TYPE_MASK) >> SLEEP_TYPE_SHIFT;
                if value & SLEEP_ENABLE != 0 && sleep_type == SLEEP_TYPE_S5 {
                    self.machine.shutdown();
                }
            }
            RESET if value == RESET_VALUE => self.machine.reset(),
            _ => {}
        }
    }
}

impl Lifecycle for Power {
    fn save(&self, id: &str) -> Result<DeviceState, StateError> {
        DeviceState::encode(id, &PowerV1 { events: self.events, sleep_control: self.sleep_control })
    }

    fn reset(&mut self) {
        self.events = 0;
        self.sleep_control = 0;
    }
}
