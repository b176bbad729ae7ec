//! A server with a machine behind it, on a socket in a folder of its own, and a client that sends any bytes.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;
use whimbrel_monitor::{Client, Events, Server};

use crate::machine::Machine;

/// No step of a test takes longer, on the slowest machine, unless something is broken.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) struct Bench {
    pub(crate) server: Option<Server>,
    pub(crate) machine: Machine,
    pub(crate) events: Events,
    pub(crate) path: PathBuf,
    _folder: TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qmp");
        let events = Events::new();
        let machine = Machine::new(events.clone());
        let server = Server::bind(&path, Arc::new(machine.clone()), events.clone()).unwrap();
        Self { server: Some(server), machine, events, path, _folder: folder }
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.path, DEADLINE).unwrap()
    }

    /// A connection that has read the greeting and sent nothing.
    pub(crate) fn greeted(&self) -> Plain {
        let mut plain = self.unread();
        assert!(plain.line()["QMP"]["version"].is_object());
        plain
    }

    /// A connection past its handshake.
    pub(crate) fn plain(&self) -> Plain {
        let mut plain = self.greeted();
        plain.send(r#"{"execute":"qmp_capabilities"}"#);
        assert_eq!(plain.line()["return"], serde_json::json!({}));
        plain
    }

    /// A connection that has read nothing.
    pub(crate) fn unread(&self) -> Plain {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Plain { reader: BufReader::new(stream) }
    }
}

/// A connection without any manners.
pub(crate) struct Plain {
    pub(crate) reader: BufReader<UnixStream>,
}

impl Plain {
    pub(crate) fn stream(&self) -> &UnixStream {
        self.reader.get_ref()
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream().write_all(bytes.as_ref()).unwrap();
    }

    /// The next line; `null` at the end.
    pub(crate) fn line(&mut self) -> Value {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        if line.is_empty() { Value::Null } else { serde_json::from_str(&line).unwrap() }
    }

    /// Sends, and returns the description of the error that comes back.
    pub(crate) fn error(&mut self, bytes: impl AsRef<[u8]>) -> String {
        self.send(bytes);
        let reply = self.line();
        reply["error"]["desc"].as_str().unwrap_or_else(|| panic!("not an error: {reply}")).to_owned()
    }

    /// That the connection still does its work.
    pub(crate) fn assert_works(&mut self) {
        self.send(r#"{"execute":"query-name","id":"works"}"#);
        let reply = self.line();
        assert_eq!(reply, serde_json::json!({ "return": { "name": "toy" }, "id": "works" }));
    }
}

/// Waits until the condition holds.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "Not within {DEADLINE:?}: {what}");
        std::thread::yield_now();
    }
}
