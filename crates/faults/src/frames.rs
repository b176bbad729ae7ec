//! What passes: frames, by name, as they come off a connection.

use std::{
    io::{self, Read},
    ops::RangeInclusive,
};

use wire::{Batch, FrameHeader, FrameKind, GREETING_BYTES, Greeting, HEADER_BYTES, Role, RoundEnd};

use crate::Which;

/// The names of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(
    missing_docs,
    reason = "each is the name of a message or frame of the protocol, see the crate `wire`"
)]
pub enum FrameName {
    /// The first of every connection, and what a destination answers to it.
    Greeting,
    Hello,
    Accept,
    Refuse,
    ChannelsOpen,
    Pages,
    RoundEnd,
    Ping,
    Pong,
    Switchover,
    /// Pages that pass after *switchover* was said.
    LastPages,
    /// The end of the last round.
    LastRoundEnd,
    Device,
    /// Pages that will follow the machine, or, in a recovery, that have not come.
    Missing,
    Complete,
    Ready,
    Go,
    Running,
    NotRunning,
    /// Pages that follow the machine.
    Pushed,
    /// The machine waits for pages.
    Request,
    Whole,
    Recover,
    Recovering,
    Ask,
    UnknownSession,
    Bye,
    Abort,
}

/// The phases of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// Who are you, can it come, open the channels.
    Handshake,
    /// Memory is copied while the machine runs.
    Rounds,
    /// The machine is stopped; last pages and device states.
    Switchover,
    /// *Ready*, *go*, *running*.
    HandOver,
    /// It is over, and both sides may forget it.
    Release,
    /// The machine runs, and its memory follows.
    Postcopy,
    /// What became of it?
    Asking,
}

impl FrameName {
    /// All of them, in the order in which a migration has them.
    pub const ALL: [Self; 28] = [
        Self::Greeting,
        Self::Hello,
        Self::Accept,
        Self::Refuse,
        Self::ChannelsOpen,
        Self::Pages,
        Self::RoundEnd,
        Self::Ping,
        Self::Pong,
        Self::Switchover,
        Self::LastPages,
        Self::LastRoundEnd,
        Self::Device,
        Self::Missing,
        Self::Complete,
        Self::Ready,
        Self::Go,
        Self::Running,
        Self::NotRunning,
        Self::Pushed,
        Self::Request,
        Self::Whole,
        Self::Recover,
        Self::Recovering,
        Self::Ask,
        Self::UnknownSession,
        Self::Bye,
        Self::Abort,
    ];

    /// As it is typed and printed.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::Accept => "accept",
            Self::Refuse => "refuse",
            Self::Greeting => "greeting",
            Self::ChannelsOpen => "channels-open",
            Self::Pages => "pages",
            Self::RoundEnd => "round-end",
            Self::Ping => "ping",
            Self::Pong => "pong",
            Self::Switchover => "switchover",
            Self::LastPages => "last-pages",
            Self::LastRoundEnd => "last-round-end",
            Self::Device => "device",
            Self::Complete => "complete",
            Self::Ready => "ready",
            Self::Go => "go",
            Self::Running => "running",
            Self::NotRunning => "not-running",
            Self::Missing => "missing",
            Self::Pushed => "pushed",
            Self::Request => "request",
            Self::Whole => "whole",
            Self::Recover => "recover",
            Self::Recovering => "recovering",
            Self::Ask => "ask",
            Self::UnknownSession => "unknown-session",
            Self::Bye => "bye",
            Self::Abort => "abort",
        }
    }

    /// The frame of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|frame| frame.name() == name)
    }

    /// The phase to which it belongs.
    #[must_use]
    pub fn phase(self) -> Phase {
        match self {
            Self::Greeting | Self::Hello | Self::Accept | Self::Refuse | Self::ChannelsOpen => {
                Phase::Handshake
            }
            Self::Pages | Self::RoundEnd | Self::Ping | Self::Pong => Phase::Rounds,
            Self::Switchover
            | Self::LastPages
            | Self::LastRoundEnd
            | Self::Device
            | Self::Missing
            | Self::Complete => Phase::Switchover,
            Self::Ready | Self::Go | Self::Running | Self::NotRunning => Phase::HandOver,
            Self::Bye | Self::Abort => Phase::Release,
            Self::Pushed | Self::Request | Self::Whole | Self::Recover | Self::Recovering => Phase::Postcopy,
            Self::Ask | Self::UnknownSession => Phase::Asking,
        }
    }

    /// Whether it is told on an encrypted connection too: a message that leads from one phase to the next.
    #[must_use]
    pub fn is_told_encrypted(self) -> bool {
        matches!(self, Self::Switchover | Self::Ready | Self::Go | Self::Running | Self::Bye)
    }

    /// The frame that carries the message of this name, as the crate `wire` has it.
    fn of_message(message: &str) -> Option<Self> {
        Some(match message {
            "Hello" => Self::Hello,
            "Accept" => Self::Accept,
            "Refuse" => Self::Refuse,
            "ChannelsOpen" => Self::ChannelsOpen,
            "Ping" => Self::Ping,
            "Pong" => Self::Pong,
            "Switchover" => Self::Switchover,
            "Device" => Self::Device,
            "Missing" => Self::Missing,
            "Complete" => Self::Complete,
            "Whole" => Self::Whole,
            "Recover" => Self::Recover,
            "Recovering" => Self::Recovering,
            "Ready" => Self::Ready,
            "Go" => Self::Go,
            "Running" => Self::Running,
            "NotRunning" => Self::NotRunning,
            "UnknownSession" => Self::UnknownSession,
            "Ask" => Self::Ask,
            "Bye" => Self::Bye,
            "Abort" => Self::Abort,
            _ => return None,
        })
    }
}

impl Phase {
    /// All of them, in order.
    pub const ALL: [Self; 7] = [
        Self::Handshake,
        Self::Rounds,
        Self::Switchover,
        Self::HandOver,
        Self::Postcopy,
        Self::Release,
        Self::Asking,
    ];

    /// The phase of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.name() == name)
    }

    /// As it is typed and printed.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Rounds => "rounds",
            Self::Switchover => "switchover",
            Self::HandOver => "hand-over",
            Self::Postcopy => "postcopy",
            Self::Release => "release",
            Self::Asking => "asking",
        }
    }
}

/// What comes off a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Chunk {
    /// Header and structured part of a frame, which this many bytes of page data follow. One that this version does not know
    /// has no name.
    Frame { name: Option<FrameName>, which: Option<Which>, data: u64 },
    /// A record of TLS, with so many bytes behind its header.
    Record { length: usize },
    /// Bytes that are no frame, or only the beginning of one. All that follows is carried as it comes.
    Other,
    /// The end of the stream.
    End,
}

/// Bytes before what a record of TLS carries.
const RECORD_HEADER_BYTES: usize = 5;
/// Memory taken at once for a structured part; a longer one grows as its bytes really arrive.
const STEP_BYTES: usize = 64 << 10;

/// Reads the next frame but for its page data; `bytes` has what was read, whatever it is.
///
/// # Errors
/// The connection broke. What was read before is in `bytes`.
pub(crate) fn read(from: &mut impl Read, bytes: &mut Vec<u8>) -> io::Result<Chunk> {
    bytes.clear();
    if !fill(from, bytes, RECORD_HEADER_BYTES)? {
        return Ok(if bytes.is_empty() { Chunk::End } else { Chunk::Other });
    }
    if let Some(length) = record_length(bytes) {
        return Ok(if fill(from, bytes, length)? { Chunk::Record { length } } else { Chunk::Other });
    }
    if !fill(from, bytes, HEADER_BYTES - RECORD_HEADER_BYTES)? {
        return Ok(Chunk::Other);
    }
    if bytes.starts_with(&wire::greeting::MAGIC) {
        fill(from, bytes, GREETING_BYTES - HEADER_BYTES)?;
        return Ok(greeting(bytes));
    }
    let mut raw = [0; HEADER_BYTES];
    raw.copy_from_slice(bytes);
    let Ok(header) = FrameHeader::decode(&raw) else { return Ok(Chunk::Other) };
    if !fill(from, bytes, header.length as usize)? {
        return Ok(Chunk::Other);
    }
    Ok(describe(header.kind, &bytes[HEADER_BYTES..]))
}

/// Bytes that follow the header of a record of TLS (RFC 8446, 5.1 and 5.2); `None` if it is none. No frame begins like one.
fn record_length(header: &[u8]) -> Option<usize> {
    const KINDS: RangeInclusive<u8> = 20..=23;
    const MOST: usize = (16 << 10) + 256;
    let &[kind, 3, 0..=4, high, low] = header else { return None };
    let length = usize::from(u16::from_be_bytes([high, low]));
    (KINDS.contains(&kind) && (1..=MOST).contains(&length)).then_some(length)
}

fn greeting(bytes: &[u8]) -> Chunk {
    let greeting =
        <&[u8; GREETING_BYTES]>::try_from(bytes).ok().and_then(|bytes| Greeting::decode(bytes).ok());
    let Some(greeting) = greeting else { return Chunk::Other };
    let which = match greeting.role {
        Role::Control => Which::Control,
        Role::Pages => Which::Channel(greeting.index),
        Role::Ask => Which::Ask,
        Role::Urgent => Which::Urgent,
    };
    Chunk::Frame { name: Some(FrameName::Greeting), which: Some(which), data: 0 }
}

fn describe(kind: FrameKind, body: &[u8]) -> Chunk {
    let (name, which) = match kind {
        FrameKind::Control => {
            let name = message_name(body).and_then(FrameName::of_message);
            let which = if name == Some(FrameName::Ask) { Which::Ask } else { Which::Control };
            (name, Some(which))
        }
        FrameKind::Request => (Some(FrameName::Request), Some(Which::Urgent)),
        FrameKind::RoundEnd => {
            let last = RoundEnd::decode(body).is_ok_and(|end| end.last);
            (Some(if last { FrameName::LastRoundEnd } else { FrameName::RoundEnd }), None)
        }
        FrameKind::Pages => {
            let mut batch = Batch::default();
            // Whether the block has so many pages is for the destination to say.
            if batch.decode_from(body, |_| Some(u64::MAX)).is_err() {
                return Chunk::Other;
            }
            let data = batch.sent_bytes();
            let name = if batch.round == wire::PUSHED { FrameName::Pushed } else { FrameName::Pages };
            return Chunk::Frame { name: Some(name), which: None, data };
        }
    };
    Chunk::Frame { name, which, data: 0 }
}

/// The name of a message, without a look at what it says: that may be longer than is worth reading, or of another version. It is
/// the text, or the only key of the map, that a message is in CBOR (RFC 8949).
fn message_name(body: &[u8]) -> Option<&str> {
    const MAP_OF_ONE: u8 = 0xa1;
    const TEXT: u8 = 0x60;
    /// Lengths from here on do not stand in the first byte; no name is so long.
    const LONG: u8 = TEXT + 24;
    let text = match body {
        [MAP_OF_ONE, rest @ ..] => rest,
        rest => rest,
    };
    match text {
        [head @ TEXT..LONG, rest @ ..] => {
            rest.get(..usize::from(head - TEXT)).and_then(|name| std::str::from_utf8(name).ok())
        }
        _ => None,
    }
}

/// Adds `count` bytes to `bytes`. Returns whether there were so many.
fn fill(from: &mut impl Read, bytes: &mut Vec<u8>, count: usize) -> io::Result<bool> {
    let end = bytes.len() + count;
    while bytes.len() < end {
        let have = bytes.len();
        bytes.resize(end.min(have + STEP_BYTES), 0);
        let read = from.read(&mut bytes[have..]);
        bytes.truncate(have + read.as_ref().map_or(0, |read| *read));
        match read {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use wire::{Accept, Ack, Encoding, Message, Offer, PageCounts, Refuse, SessionId};

    use super::*;

    fn read_all(mut stream: &[u8]) -> Vec<Chunk> {
        let mut bytes = Vec::new();
        std::iter::from_fn(|| {
            Some(read(&mut stream, &mut bytes).unwrap()).filter(|chunk| *chunk != Chunk::End)
        })
        .collect()
    }

    #[test]
    fn frames_are_known_by_name() {
        let session = SessionId([1; 16]);
        let greeting =
            |role, index| Greeting { offer: Offer::of("1"), role, index, session }.encode().to_vec();
        let ask = Message::Ask { session }.encode(0).unwrap();
        let end =
            RoundEnd { round: 4, last: true, pages: PageCounts { raw: 1, zero: 2, ..PageCounts::default() } }
                .encode(1);
        let frame = |name, which| Chunk::Frame { name: Some(name), which, data: 0 };
        assert_eq!(
            read_all(&[greeting(Role::Ask, 0), ask, greeting(Role::Pages, 3), end].concat()),
            [
                frame(FrameName::Greeting, Some(Which::Ask)),
                frame(FrameName::Ask, Some(Which::Ask)),
                frame(FrameName::Greeting, Some(Which::Channel(3))),
                frame(FrameName::LastRoundEnd, None)
            ]
        );
    }

    #[test]
    fn page_data_is_told_by_the_table() {
        let mut batch = Batch::default();
        for (page, encoding) in [(7, Encoding::Raw), (8, Encoding::Raw), (9, Encoding::Zero)] {
            batch.push(page, encoding);
        }
        let mut frame = Vec::new();
        batch.encode_into(0, &mut frame);
        assert_eq!(
            read_all(&frame),
            [Chunk::Frame { name: Some(FrameName::Pages), which: None, data: 8192 }]
        );
    }

    #[test]
    fn every_message_is_known_by_name() {
        let ack = Ack { nanoseconds: 1 };
        let session = SessionId([3; 16]);
        for (message, name) in [
            (Message::ChannelsOpen, FrameName::ChannelsOpen),
            (Message::Ping(7), FrameName::Ping),
            (Message::Pong(7), FrameName::Pong),
            (Message::Refuse(Refuse { reasons: vec!["no".into()] }), FrameName::Refuse),
            (Message::Accept(Accept { channels: 3, reads: Vec::new() }), FrameName::Accept),
            (Message::Switchover, FrameName::Switchover),
            (Message::Ready(ack), FrameName::Ready),
            (Message::Go, FrameName::Go),
            (Message::Running(ack), FrameName::Running),
            (Message::NotRunning { reason: "no".into() }, FrameName::NotRunning),
            (Message::UnknownSession, FrameName::UnknownSession),
            (Message::Ask { session }, FrameName::Ask),
            (Message::Bye, FrameName::Bye),
            (Message::Abort { reason: "no".into() }, FrameName::Abort),
        ] {
            let body = &message.encode(0).unwrap()[HEADER_BYTES..];
            assert_eq!(message_name(body), Some(message.name()));
            assert_eq!(FrameName::of_message(message.name()), Some(name));
        }
        for name in ["Hello", "Device", "Complete"] {
            assert!(FrameName::of_message(name).is_some(), "{name}");
        }
    }

    #[test]
    fn a_message_of_another_version_is_a_frame_without_a_name() {
        let frames: [&[u8]; 4] = [b"\xa1\x66Dinner\x01", b"\x66Dinn", b"", b"\xff\xff"];
        for body in frames {
            let frame = [&FrameHeader::encode(FrameKind::Control, 0, body)[..], body].concat();
            let expected = Chunk::Frame { name: None, which: Some(Which::Control), data: 0 };
            assert_eq!(read_all(&frame), [expected], "{body:?}");
        }
    }

    #[test]
    fn what_is_no_frame_is_kept() {
        for stream in [&b"GET / HTTP/1.1\r\n\r\n"[..], &b"WB\x01"[..], &[b'W', b'B', 1, 0, 9, 0, 0, 0, 0, 0]]
        {
            let mut bytes = Vec::new();
            assert_eq!(read(&mut { stream }, &mut bytes).unwrap(), Chunk::Other);
            assert_eq!(bytes, stream[..stream.len().min(HEADER_BYTES)]);
        }
        let mut cut = Message::Go.encode(0).unwrap();
        cut.pop();
        let mut bytes = Vec::new();
        assert_eq!(read(&mut &cut[..], &mut bytes).unwrap(), Chunk::Other);
        assert_eq!(bytes, cut);
    }
}
