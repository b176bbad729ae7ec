//! The 16550 serial port, on the terminal, a file, or a unix socket.

mod backend;
mod descriptors;
mod file;
mod logged;
mod model;
mod socket;
mod state;
#[cfg(test)]
mod tests;
mod writer;

pub use backend::{Backend, BackendError};
pub use descriptors::Descriptors;
pub use file::OutputFile;
pub use logged::Logged;
pub use model::{PORTS, Serial};
pub use socket::Socket;
pub use state::SerialV1;
pub use writer::Confine;
