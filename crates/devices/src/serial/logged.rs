use super::{Backend, OutputFile, Socket};
use crate::Watch;

/// A socket whose output goes to a file as well, whether there is a client or not.
#[derive(Debug)]
pub struct Logged {
    log: OutputFile,
    socket: Socket,
}

impl Logged {
    /// Both, open.
    #[must_use]
    pub fn new(log: OutputFile, socket: Socket) -> Self {
        Self { log, socket }
    }
}

impl Backend for Logged {
    fn watches(&self) -> Vec<Watch> {
        self.socket.watches()
    }

    fn ready(&mut self, token: u32) {
        self.socket.ready(token);
    }

    fn write(&mut self, bytes: &[u8]) {
        self.log.write(bytes);
        self.socket.write(bytes);
    }

    fn read(&mut self, room: &mut [u8]) -> usize {
        self.socket.read(room)
    }
}
