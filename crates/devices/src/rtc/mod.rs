//! The real-time clock and CMOS memory of a PC (MC146818), at I/O ports 0x70 and 0x71.

mod model;
mod registers;
mod state;
#[cfg(test)]
mod tests;

pub use model::{PORT, PORTS, Rtc};
pub use state::RtcV1;
