use std::{convert::Infallible, sync::Arc};

use state::{DeviceState, StateError};
use vm_superio::{
    SerialState, Trigger,
    serial::{NoEvents, Serial as Uart},
};

use super::{Backend, SerialV1};
use crate::{BusDevice, Interrupt, Invalid, IoDevice, Lifecycle, Watch};

/// I/O ports of the device.
pub const PORTS: u16 = 8;

/// Bytes of the receive FIFO; what the library's UART holds.
const FIFO_BYTES: usize = 64;

const RECEIVE: u8 = 0;
const MODEM_CONTROL: u8 = 4;
const LOOPBACK: u8 = 1 << 4;

/// LSR: a byte is there to be read.
const DATA_READY: u8 = 1;
/// LSR: the transmitter is empty, which it always is here.
const TRANSMITTER_EMPTY: u8 = 0x60;
/// IIR: no interrupt pending.
const NO_INTERRUPT: u8 = 1;

/// A 16550 serial port. Input that does not fit its FIFO stays on the host until the guest makes room.
#[derive(Debug)]
pub struct Serial {
    uart: Uart<Line, NoEvents, Vec<u8>>,
    backend: Box<dyn Backend>,
    interrupt: Arc<dyn Interrupt>,
    /// The backend may have input that was not fetched.
    input_waits: bool,
}

#[derive(Debug)]
struct Line(Arc<dyn Interrupt>);

impl Trigger for Line {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.trigger();
        Ok(())
    }
}

impl Serial {
    /// A serial port after power-on.
    #[must_use]
    pub fn new(backend: Box<dyn Backend>, interrupt: Arc<dyn Interrupt>) -> Self {
        let uart = Uart::new(Line(Arc::clone(&interrupt)), Vec::new());
        Self { uart, backend, interrupt, input_waits: true }
    }

    /// The serial port as it was saved.
    ///
    /// # Errors
    /// The state is of another device, or cannot be true.
    pub fn restore(
        backend: Box<dyn Backend>,
        interrupt: Arc<dyn Interrupt>,
        state: &DeviceState,
    ) -> Result<Self, StateError> {
        let registers: SerialV1 = state.decode()?;
        let invalid = |invalid: Invalid| invalid.of::<SerialV1>(&state.id);
        check(&registers).map_err(invalid)?;
        let uart = Uart::from_state(&registers.into(), Line(Arc::clone(&interrupt)), NoEvents, Vec::new())
            .map_err(|error| invalid(Invalid(error.to_string())))?;
        Ok(Self { uart, backend, interrupt, input_waits: true })
    }

    /// Moves input into the FIFO, as much as there is room for.
    fn fetch(&mut self) {
        let mut bytes = [0; FIFO_BYTES];
        loop {
            let room = self.uart.fifo_capacity().min(FIFO_BYTES);
            // In loopback mode the receiver is cut off from the line.
            self.input_waits = room == 0 || self.uart.read(MODEM_CONTROL) & LOOPBACK != 0;
            if self.input_waits {
                return;
            }
            let count = self.backend.read(&mut bytes[..room]);
            if count == 0 {
                return;
            }
            // Fails only for want of room, which was asked for above.
            let _ = self.uart.enqueue_raw_bytes(&bytes[..count]);
        }
    }
}

impl BusDevice for Serial {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let (Ok(register), Some(value)) = (u8::try_from(offset), data.first_mut()) else { return };
        *value = self.uart.read(register);
        // A half-empty FIFO is worth a system call, a single byte is not.
        if register == RECEIVE && self.input_waits && self.uart.fifo_capacity() >= FIFO_BYTES / 2 {
            self.fetch();
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let (Ok(register), Some(value)) = (u8::try_from(offset), data.first()) else { return };
        // Cannot fail: the interrupt line takes every edge, and a Vec takes every byte.
        let _ = self.uart.write(register, *value);
        let output = self.uart.writer_mut();
        if !output.is_empty() {
            self.backend.write(output);
            output.clear();
        }
        if register == MODEM_CONTROL && self.input_waits {
            self.fetch();
        }
    }
}

impl IoDevice for Serial {
    fn watches(&self) -> Vec<Watch> {
        self.backend.watches()
    }

    fn ready(&mut self, token: u32) {
        self.backend.ready(token);
        self.fetch();
    }

    fn kick(&mut self) {
        for watch in self.backend.watches() {
            self.backend.ready(watch.token);
        }
        self.fetch();
        // The edge may have been lost with the machine that was saved; one too many is harmless.
        let state = self.uart.state();
        if state.interrupt_identification != NO_INTERRUPT || !state.in_buffer.is_empty() {
            self.interrupt.trigger();
        }
    }
}

impl Lifecycle for Serial {
    fn save(&self, id: &str) -> Result<DeviceState, StateError> {
        DeviceState::encode(id, &SerialV1::from(self.uart.state()))
    }

    fn reset(&mut self) {
        self.uart = Uart::new(Line(Arc::clone(&self.interrupt)), Vec::new());
        self.input_waits = true;
    }
}

fn check(state: &SerialV1) -> Result<(), Invalid> {
    Invalid::unless(state.receive_fifo.len() <= FIFO_BYTES, || {
        format!("{} bytes in a FIFO of {FIFO_BYTES}", state.receive_fifo.len())
    })?;
    let data_ready = if state.receive_fifo.is_empty() { 0 } else { DATA_READY };
    Invalid::unless(state.line_status == TRANSMITTER_EMPTY | data_ready, || {
        format!("line status {:#x} with {} bytes received", state.line_status, state.receive_fifo.len())
    })?;
    // None, transmitter empty, data received, or both of these.
    Invalid::unless(matches!(state.interrupt_identification, NO_INTERRUPT | 2 | 4 | 6), || {
        format!("interrupt identification {:#x}", state.interrupt_identification)
    })?;
    Invalid::unless(state.interrupt_enable <= 0xf, || {
        format!("interrupt enable {:#x}", state.interrupt_enable)
    })
}

impl From<SerialState> for SerialV1 {
    fn from(state: SerialState) -> Self {
        Self {
            baud_divisor_low: state.baud_divisor_low,
            baud_divisor_high: state.baud_divisor_high,
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            receive_fifo: state.in_buffer,
        }
    }
}

impl From<SerialV1> for SerialState {
    fn from(state: SerialV1) -> Self {
        Self {
            baud_divisor_low: state.baud_divisor_low,
            baud_divisor_high: state.baud_divisor_high,
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            in_buffer: state.receive_fifo,
        }
    }
}
