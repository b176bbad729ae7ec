//! What passes: frames, by name, as they come off a connection.

use std::io::{self, Read};

use wire::{Batch, ChannelHello, Encoding, FrameHeader, FrameKind, HEADER_BYTES, Message, RoundEnd};

use crate::Which;

/// The names of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(
    missing_docs,
    reason = "each is the name of a message or frame of the protocol, see the crate `wire`"
)]
pub enum FrameName {
    Hello,
    Accept,
    Refuse,
    ChannelHello,
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
    Complete,
    Ready,
    Go,
    Running,
    NotRunning,
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
    /// What became of it?
    Asking,
}

impl FrameName {
    /// All of them, in the order in which a migration has them.
    pub const ALL: [Self; 22] = [
        Self::Hello,
        Self::Accept,
        Self::Refuse,
        Self::ChannelHello,
        Self::ChannelsOpen,
        Self::Pages,
        Self::RoundEnd,
        Self::Ping,
        Self::Pong,
        Self::Switchover,
        Self::LastPages,
        Self::LastRoundEnd,
        Self::Device,
        Self::Complete,
        Self::Ready,
        Self::Go,
        Self::Running,
        Self::NotRunning,
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
            Self::ChannelHello => "channel-hello",
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
            Self::Hello | Self::Accept | Self::Refuse | Self::ChannelHello | Self::ChannelsOpen => {
                Phase::Handshake
            }
            Self::Pages | Self::RoundEnd | Self::Ping | Self::Pong => Phase::Rounds,
            Self::Switchover | Self::LastPages | Self::LastRoundEnd | Self::Device | Self::Complete => {
                Phase::Switchover
            }
            Self::Ready | Self::Go | Self::Running | Self::NotRunning => Phase::HandOver,
            Self::Bye | Self::Abort => Phase::Release,
            Self::Ask | Self::UnknownSession => Phase::Asking,
        }
    }

    fn of_message(message: &Message) -> Self {
        match message {
            Message::Hello(_) => Self::Hello,
            Message::Accept(_) => Self::Accept,
            Message::Refuse(_) => Self::Refuse,
            Message::ChannelsOpen => Self::ChannelsOpen,
            Message::Ping(_) => Self::Ping,
            Message::Pong(_) => Self::Pong,
            Message::Switchover { .. } => Self::Switchover,
            Message::Device(_) => Self::Device,
            Message::Complete(_) => Self::Complete,
            Message::Ready(_) => Self::Ready,
            Message::Go => Self::Go,
            Message::Running(_) => Self::Running,
            Message::NotRunning { .. } => Self::NotRunning,
            Message::UnknownSession => Self::UnknownSession,
            Message::Ask { .. } => Self::Ask,
            Message::Bye => Self::Bye,
            Message::Abort { .. } => Self::Abort,
        }
    }
}

impl Phase {
    /// All of them, in order.
    pub const ALL: [Self; 6] =
        [Self::Handshake, Self::Rounds, Self::Switchover, Self::HandOver, Self::Release, Self::Asking];

    /// As it is printed.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Rounds => "rounds",
            Self::Switchover => "switchover",
            Self::HandOver => "hand-over",
            Self::Release => "release",
            Self::Asking => "asking",
        }
    }
}

/// What comes off a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Chunk {
    /// Header and structured part of a frame, which this many bytes of page data follow.
    Frame { name: FrameName, which: Option<Which>, data: u64 },
    /// Bytes that are no frame, or only the beginning of one. All that follows is carried as it comes.
    Other,
    /// The end of the stream.
    End,
}

/// Memory taken at once for a structured part; a longer one grows as its bytes really arrive.
const STEP_BYTES: usize = 64 << 10;

/// Reads the next frame but for its page data; `bytes` has what was read, whatever it is.
///
/// # Errors
/// The connection broke. What was read before is in `bytes`.
pub(crate) fn read(from: &mut impl Read, bytes: &mut Vec<u8>) -> io::Result<Chunk> {
    bytes.clear();
    if !fill(from, bytes, HEADER_BYTES)? {
        return Ok(if bytes.is_empty() { Chunk::End } else { Chunk::Other });
    }
    let mut raw = [0; HEADER_BYTES];
    raw.copy_from_slice(bytes);
    let Ok(header) = FrameHeader::decode(&raw) else { return Ok(Chunk::Other) };
    if !fill(from, bytes, header.length as usize)? {
        return Ok(Chunk::Other);
    }
    Ok(describe(header.kind, &bytes[HEADER_BYTES..]))
}

fn describe(kind: FrameKind, body: &[u8]) -> Chunk {
    let frame = |name, which| Chunk::Frame { name, which, data: 0 };
    match kind {
        FrameKind::Control => Message::decode(body).map_or(Chunk::Other, |message| {
            let name = FrameName::of_message(&message);
            frame(name, Some(if name == FrameName::Ask { Which::Ask } else { Which::Control }))
        }),
        FrameKind::ChannelHello => ChannelHello::decode(body)
            .map_or(Chunk::Other, |hello| frame(FrameName::ChannelHello, Some(Which::Channel(hello.index)))),
        FrameKind::RoundEnd => RoundEnd::decode(body).map_or(Chunk::Other, |end| {
            frame(if end.last { FrameName::LastRoundEnd } else { FrameName::RoundEnd }, None)
        }),
        FrameKind::Pages => {
            let mut batch = Batch::default();
            // Whether the block has so many pages is for the destination to say.
            match batch.decode_from(body, |_| Some(u64::MAX)) {
                Ok(()) => {
                    let raw = batch.runs.iter().filter(|run| run.encoding == Encoding::Raw);
                    let data = raw.map(|run| run.data_bytes() as u64).sum();
                    Chunk::Frame { name: FrameName::Pages, which: None, data }
                }
                Err(_) => Chunk::Other,
            }
        }
    }
}

/// Adds `count` bytes to `bytes`. Answers whether there were so many.
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
    use wire::SessionId;

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
        let ask = Message::Ask { session: SessionId([1; 16]) }.encode(0).unwrap();
        let hello = ChannelHello { version: 1, index: 3, session: SessionId([1; 16]) }.encode();
        let end = RoundEnd { round: 4, last: true, raw_pages: 1, zero_pages: 2 }.encode(1);
        let frame = |name, which| Chunk::Frame { name, which, data: 0 };
        assert_eq!(
            read_all(&[ask, hello, end].concat()),
            [
                frame(FrameName::Ask, Some(Which::Ask)),
                frame(FrameName::ChannelHello, Some(Which::Channel(3))),
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
        assert_eq!(read_all(&frame), [Chunk::Frame { name: FrameName::Pages, which: None, data: 8192 }]);
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
