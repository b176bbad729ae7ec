use serde::{Deserialize, Serialize};
use state::{Schema, Value, not_read};

/// The registers of the serial port and the bytes that the guest has not read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SerialV1 {
    /// DLL.
    pub baud_divisor_low: u8,
    /// DLM.
    pub baud_divisor_high: u8,
    /// IER.
    pub interrupt_enable: u8,
    /// IIR.
    pub interrupt_identification: u8,
    /// LCR.
    pub line_control: u8,
    /// LSR.
    pub line_status: u8,
    /// MCR.
    pub modem_control: u8,
    /// MSR.
    pub modem_status: u8,
    /// SCR.
    pub scratch: u8,
    /// Bytes in the receive FIFO, oldest first; at most 64.
    #[serde(with = "serde_bytes")]
    pub receive_fifo: Vec<u8>,
}

impl Schema for SerialV1 {
    const KIND: &'static str = "serial-16550";
    const VERSION: u32 = 1;

    fn older(version: u32, _: Value) -> Result<Self, String> {
        not_read(version)
    }
}
