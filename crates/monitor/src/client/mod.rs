//! The other side of the monitor: connects, asks, and hears events. Speaks to Whimbrel and to QEMU.

mod events;
mod reader;

use std::{
    io::{self, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

pub use events::EventQueue;
use reader::Replies;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::{
    CommandError,
    protocol::{Reply, Request},
    types::{MigrationInfo, StatusInfo, VersionInfo},
};

/// A connection to a monitor, past its handshake.
///
/// Commands are done one at a time. Events that arrive meanwhile are kept for [`events`](Self::events).
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    replies: Replies,
    events: EventQueue,
    version: VersionInfo,
    timeout: Duration,
    next_id: u64,
}

/// Why a client has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers at that path.
    #[error("Monitor {} cannot be reached: is the machine running?", path.display())]
    Connect {
        /// The socket's file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The server did not answer in time.
    #[error("Monitor did not answer '{request}' within {} ms", timeout.as_millis())]
    Timeout {
        /// The command, or what else was waited for.
        request: String,
        /// How long it was waited for.
        timeout: Duration,
    },
    /// The server closed the connection: the machine has ended, or dropped this client.
    #[error("Monitor closed the connection")]
    Closed,
    /// The connection failed.
    #[error("Connection to the monitor failed")]
    Io(#[from] io::Error),
    /// The server said something that is no QMP.
    #[error("Monitor sent what is no QMP message: {text}")]
    Protocol {
        /// The beginning of it.
        text: String,
    },
    /// The server refused the command.
    #[error("Monitor refused '{command}'")]
    Command {
        /// The command.
        command: String,
        /// Why.
        source: CommandError,
    },
    /// The command returned something else than was expected.
    #[error("Monitor returned an unexpected value for '{command}'")]
    Result {
        /// The command.
        command: String,
        /// What did not fit.
        source: serde_json::Error,
    },
}

impl Client {
    /// Connects, reads the greeting and negotiates. `timeout` holds for all of it, and then for each command.
    pub fn connect(path: &Path, timeout: Duration) -> Result<Self, ClientError> {
        let stream = connect(path, timeout)
            .map_err(|source| ClientError::Connect { path: path.to_owned(), source })?;
        stream.set_write_timeout(Some(timeout))?;
        let events = EventQueue::default();
        let (replies, reader) = reader::start(stream.try_clone()?, events.clone());
        // The thread ends with the connection, which dropping this shuts down.
        thread::Builder::new().name("monitor-reader".to_owned()).spawn(reader)?;
        let version = VersionInfo::default();
        let mut client = Self { stream, replies, events, version, timeout, next_id: 0 };
        client.version = client.replies.greeting(timeout)?.qmp.version;
        client.execute("qmp_capabilities", json!({}))?;
        Ok(client)
    }

    /// Does a command, and returns what it returned. `arguments` is an object, or `null` for none.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, ClientError> {
        let arguments = match arguments {
            Value::Object(arguments) => arguments,
            _ => Map::new(),
        };
        self.next_id += 1;
        let id = Value::from(self.next_id);
        let request = Request { execute: command.to_owned(), arguments, id: Some(id.clone()) };
        let reply = self.exchange(&request.to_line(), command, |reply| reply.id.as_ref() == Some(&id))?;
        reply.into_outcome().map_err(|source| ClientError::Command { command: command.to_owned(), source })
    }

    /// Does a command whose result is of type `T`.
    pub fn query<T: DeserializeOwned>(&mut self, command: &str, arguments: Value) -> Result<T, ClientError> {
        let value = self.execute(command, arguments)?;
        serde_json::from_value(value)
            .map_err(|source| ClientError::Result { command: command.to_owned(), source })
    }

    /// `query-status`.
    pub fn query_status(&mut self) -> Result<StatusInfo, ClientError> {
        self.query("query-status", Value::Null)
    }

    /// `query-migrate`.
    pub fn query_migrate(&mut self) -> Result<MigrationInfo, ClientError> {
        self.query("query-migrate", Value::Null)
    }

    /// Does a line of the human monitor, and returns its text with plain newlines.
    pub fn human(&mut self, line: &str) -> Result<String, ClientError> {
        let text: String = self.query("human-monitor-command", json!({ "command-line": line }))?;
        Ok(text.replace("\r\n", "\n"))
    }

    /// Sends bytes as they are, and returns the next reply, whatever its id.
    pub fn raw(&mut self, bytes: &[u8]) -> Result<Reply, ClientError> {
        self.exchange(bytes, "raw input", |_| true)
    }

    /// The events that arrive, for any thread.
    pub fn events(&self) -> EventQueue {
        self.events.clone()
    }

    /// What the greeting said.
    pub fn version(&self) -> &VersionInfo {
        &self.version
    }

    /// How long each further command may take.
    pub fn set_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        self.timeout = timeout;
        self.stream.set_write_timeout(Some(timeout))
    }

    fn exchange(
        &mut self,
        bytes: &[u8],
        name: &str,
        wanted: impl Fn(&Reply) -> bool,
    ) -> Result<Reply, ClientError> {
        let deadline = Instant::now() + self.timeout;
        let timed_out = || ClientError::Timeout { request: name.to_owned(), timeout: self.timeout };
        match (&self.stream).write_all(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(timed_out()),
            // What the server said before it closed tells more than a broken pipe.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            outcome => outcome?,
        }
        loop {
            // A reply with another id answers a command that was given up after its time.
            let reply = self.replies.next(deadline)?.ok_or_else(timed_out)?;
            if wanted(&reply) || (reply.id.is_none() && reply.error.is_some()) {
                return Ok(reply);
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Ends the reader. Fails only if the connection is gone already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// Connects within the time: a server that hangs with a full queue would make a plain `connect` wait for ever.
fn connect(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(path)?;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let stream = UnixStream::from(socket);
    // On a unix socket, connect waits as long as a write may.
    stream.set_write_timeout(Some(timeout))?;
    rustix::net::connect(&stream, &address)?;
    Ok(stream)
}
