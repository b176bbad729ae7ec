//! What travels over the network, in a form that can be compared and kept by the million.

use state::DeviceState;
use wire::{
    Accept, Ack, Agreed, Complete, DeviceInfo, Features, Forward, Greeted, Hello, Message, PageBits,
    PageCounts, Refuse, SessionId, StateVersions,
};

/// A message without what does not decide anything: texts, figures, contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Word {
    Hello(u8),
    Accept,
    Refuse,
    ChannelsOpen,
    Ping,
    Pong,
    Switchover,
    Device,
    Complete { run: bool, to_come: u8 },
    Ready,
    Go,
    Running,
    NotRunning,
    UnknownSession,
    Ask(u8),
    Bye,
    Abort,
    Forward,
    Missing(Pages),
    Whole,
    Recover,
    Recovering { missing: u8 },
}

/// A set of pages: one bit for each.
pub(crate) type Pages = u8;

/// What is on its way on one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Packet {
    Word(Word),
    /// The first frame of the page channel of this session.
    Channel(u8),
    /// The end of the last round, and all pages before it.
    LastRound,
    /// A page that follows the machine.
    Page(Pages),
}

impl Word {
    pub(crate) fn of(message: &Message) -> Self {
        match message {
            Message::Hello(hello) => Self::Hello(number(hello.session)),
            Message::Accept(_) => Self::Accept,
            Message::Refuse(_) => Self::Refuse,
            Message::ChannelsOpen => Self::ChannelsOpen,
            Message::Ping(_) => Self::Ping,
            Message::Pong(_) => Self::Pong,
            Message::Switchover => Self::Switchover,
            Message::Device(_) => Self::Device,
            Message::Complete(complete) => {
                Self::Complete { run: complete.run, to_come: complete.to_come.map_or(0, few) }
            }
            Message::Ready(_) => Self::Ready,
            Message::Go => Self::Go,
            Message::Running(_) => Self::Running,
            Message::NotRunning { .. } => Self::NotRunning,
            Message::UnknownSession => Self::UnknownSession,
            Message::Ask { session } => Self::Ask(number(*session)),
            Message::Bye => Self::Bye,
            Message::Abort { .. } => Self::Abort,
            Message::Forward(_) => Self::Forward,
            Message::Missing(bits) => Self::Missing(pages(bits)),
            Message::Whole => Self::Whole,
            Message::Recover => Self::Recover,
            Message::Recovering { pages } => Self::Recovering { missing: few(*pages) },
            Message::Probe(_) | Message::Probed(_) => unreachable!("no machine moves with that"),
        }
    }

    pub(crate) fn message(self) -> Message {
        let ack = Ack { nanoseconds: 0 };
        match self {
            Self::Hello(number) => Message::Hello(hello(number)),
            Self::Accept => Message::Accept(Accept { channels: 1, reads: reads() }),
            Self::Refuse => Message::Refuse(Refuse { reasons: Vec::new() }),
            Self::ChannelsOpen => Message::ChannelsOpen,
            Self::Ping => Message::Ping(0),
            Self::Pong => Message::Pong(0),
            Self::Switchover => Message::Switchover,
            Self::Device => Message::Device(device()),
            Self::Complete { run, to_come } => Message::Complete(Complete {
                rounds: 0,
                pages: PageCounts::default(),
                devices: 1,
                run,
                digest: None,
                to_come: (to_come > 0).then_some(to_come.into()),
            }),
            Self::Ready => Message::Ready(ack),
            Self::Go => Message::Go,
            Self::Running => Message::Running(ack),
            Self::NotRunning => Message::NotRunning { reason: String::new() },
            Self::UnknownSession => Message::UnknownSession,
            Self::Ask(number) => Message::Ask { session: session(number) },
            Self::Bye => Message::Bye,
            Self::Abort => Message::Abort { reason: String::new() },
            Self::Forward => Message::Forward(Forward::default()),
            Self::Missing(pages) => Message::Missing(PageBits { block: 0, first_page: 0, bits: vec![pages] }),
            Self::Whole => Message::Whole,
            Self::Recover => Message::Recover,
            Self::Recovering { missing } => Message::Recovering { pages: missing.into() },
        }
    }
}

/// The pages of a set as it travels.
pub(crate) fn pages(bits: &PageBits) -> Pages {
    bits.bits.first().copied().unwrap_or_default()
}

pub(crate) fn few(pages: u64) -> u8 {
    pages.try_into().expect("there are fewer pages than bits")
}

/// The attempts are numbered from 1.
pub(crate) fn session(number: u8) -> SessionId {
    SessionId([number; 16])
}

fn number(session: SessionId) -> u8 {
    session.0[0]
}

/// A machine with one device.
pub(crate) fn hello(number: u8) -> Hello {
    let DeviceState { id, kind, version, .. } = device();
    Hello {
        session: session(number),
        channels: 1,
        page_bytes: wire::PAGE_BYTES as u32,
        digest: wire::Digest::Off,
        blocks: Vec::new(),
        devices: vec![DeviceInfo::new(id, kind, version..=version)],
        machine: device(),
        // It decides nothing at the destination but whether it hears which pages are to follow.
        postcopy: true,
    }
}

/// What a destination of this release answers to a greeting.
pub(crate) fn greeted() -> Greeted {
    Greeted { agreed: Agreed { version: 1, features: Features::OURS }, release: String::new() }
}

/// The states that a destination of this release reads.
pub(crate) fn reads() -> Vec<StateVersions> {
    vec![StateVersions { kind: "d".into(), oldest: 1, newest: 1 }]
}

fn device() -> DeviceState {
    DeviceState { id: "d".into(), kind: "d".into(), version: 1, body: Vec::new() }
}
