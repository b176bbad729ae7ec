use std::{
    io::{BufRead, BufReader, Read},
    os::unix::net::UnixStream,
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{ClientError, EventQueue};
use crate::protocol::{Event, Greeting, Reply};

/// The longest line that is taken from a server: what `qemu.qmp` takes.
const MAX_LINE_BYTES: u64 = 10 << 20;

/// Replies that may wait for the client. One is the rule; a server that sends more unasked waits.
const MAX_REPLIES: usize = 16;

/// What the server sends, events apart.
#[derive(Debug)]
pub(super) struct Replies {
    received: Receiver<Result<Message, ClientError>>,
}

#[derive(Debug)]
enum Message {
    Greeting(Greeting),
    Reply(Reply),
}

/// Makes the function that reads the connection, and the end at which its replies arrive.
pub(super) fn start(stream: UnixStream, events: EventQueue) -> (Replies, impl FnOnce() + Send + 'static) {
    let (sender, received) = sync_channel(MAX_REPLIES);
    let reader = move || {
        read(stream, &events, &sender);
        events.close();
    };
    (Replies { received }, reader)
}

impl Replies {
    /// The next reply, or `None` at the deadline.
    pub(super) fn next(&self, deadline: Instant) -> Result<Option<Reply>, ClientError> {
        match self.message(deadline)? {
            Some(Message::Reply(reply)) => Ok(Some(reply)),
            Some(Message::Greeting(_)) => Err(ClientError::Protocol { text: "a second greeting".to_owned() }),
            None => Ok(None),
        }
    }

    /// The greeting, which must be the first message.
    pub(super) fn greeting(&self, timeout: Duration) -> Result<Greeting, ClientError> {
        match self.message(Instant::now() + timeout)? {
            Some(Message::Greeting(greeting)) => Ok(greeting),
            Some(Message::Reply(reply)) => Err(match reply.error {
                Some(source) => ClientError::Command { command: "connect".to_owned(), source },
                None => ClientError::Protocol { text: "a reply before the greeting".to_owned() },
            }),
            None => Err(ClientError::Timeout { request: "connect".to_owned(), timeout }),
        }
    }

    fn message(&self, deadline: Instant) -> Result<Option<Message>, ClientError> {
        match self.received.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(message) => message.map(Some),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(ClientError::Closed),
        }
    }
}

/// Reads until the connection ends or either side breaks the rules.
fn read(stream: UnixStream, events: &EventQueue, replies: &SyncSender<Result<Message, ClientError>>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        let message = match (&mut stream).take(MAX_LINE_BYTES).read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(_) if !line.ends_with(b"\n") => Err(not_qmp(&line)),
            Ok(_) => parse(&line, events),
            Err(error) => Err(error.into()),
        };
        let last = message.is_err();
        let gone = message.transpose().is_some_and(|message| replies.send(message).is_err());
        if last || gone {
            return;
        }
    }
}

/// An event goes into its queue; anything else is returned.
fn parse(line: &[u8], events: &EventQueue) -> Result<Option<Message>, ClientError> {
    let value: Value = serde_json::from_slice(line).map_err(|_| not_qmp(line))?;
    let parsed = if value.get("event").is_some() {
        serde_json::from_value::<Event>(value).map(|event| {
            events.push(event);
            None
        })
    } else if value.get("QMP").is_some() {
        serde_json::from_value(value).map(Message::Greeting).map(Some)
    } else {
        serde_json::from_value(value).map(Message::Reply).map(Some)
    };
    parsed.map_err(|_| not_qmp(line))
}

fn not_qmp(line: &[u8]) -> ClientError {
    let text = String::from_utf8_lossy(&line[..line.len().min(100)]).trim_end().to_owned();
    ClientError::Protocol { text }
}
