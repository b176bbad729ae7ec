//! What the two sides say to each other on the control connection.

use serde::{Deserialize, Serialize};
use state::{DeviceState, MAX_BODY_BYTES};

use crate::{
    Accept, Forward, FrameHeader, FrameKind, HEADER_BYTES, Hello, PageCounts, Probe, Probed, Refuse,
    SessionId, WireError, missing::PageBits,
};

/// Longest encoded message, in bytes: the largest device state and its envelope.
pub const MAX_CONTROL_BYTES: u32 = MAX_BODY_BYTES as u32 + (64 << 10);

/// One message. In the order in which a migration that goes well sends them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Message {
    /// Source: this is the machine that wants to move.
    Hello(Hello),
    /// Destination: it can come, open the channels.
    Accept(Accept),
    /// Destination: it cannot come, and why. The connection ends.
    Refuse(Refuse),
    /// Destination: all channels are here, pages may come. Without this word a channel that got lost on its way would only
    /// be missed when the machine has stopped.
    ChannelsOpen,
    /// Either side: answer with [`Message::Pong`] and the same number at once. Measures the round trip.
    Ping(u64),
    /// Answer to [`Message::Ping`].
    Pong(u64),
    /// Source: the machine has stopped; device states follow.
    Switchover,
    /// Source: the state of one device.
    Device(DeviceState),
    /// Source: everything has been sent.
    Complete(Complete),
    /// Destination: everything is loaded and checked, disk locks are held; the machine can run here.
    Ready(Ack),
    /// Source: run it. Said once; from here on the source does not run the machine unless the destination says
    /// [`Message::NotRunning`].
    Go,
    /// Destination: the machine runs here.
    Running(Ack),
    /// Destination: the machine does not run here and never will in this session; the source may run it.
    NotRunning {
        /// Why.
        reason: String,
    },
    /// Destination: it never heard of the session that it was asked about, and so cannot say what became of it.
    UnknownSession,
    /// Source, as the first message of a new connection: what became of this session?
    Ask {
        /// The session.
        session: SessionId,
    },
    /// Source, once after [`Message::Running`]: what the world had still sent to the machine here. Only with
    /// [`Features::FORWARD`](crate::Features::FORWARD). One without packets says that nothing more follows for its device
    /// ([`Features::FORWARD_ENDS`](crate::Features::FORWARD_ENDS)).
    Forward(Forward),
    /// Some of the pages that the destination does not have, or has as they were before. The source says so before
    /// [`Message::Complete`] of those that will follow when the machine runs; the destination, in a recovery, of those that have
    /// not come. Only with [`Features::POSTCOPY`](crate::Features::POSTCOPY), as all of the following.
    Missing(PageBits),
    /// Destination: every page is here, the source is needed no more.
    Whole,
    /// Source, after [`Message::Running`] on a new connection: which pages have not come?
    Recover,
    /// Destination: that were all that are missing, so many pages. The channels may be opened again, if there are any.
    Recovering {
        /// Pages.
        pages: u64,
    },
    /// Source: understood, this session is over.
    Bye,
    /// Either side, before [`Message::Go`]: this attempt is over.
    Abort {
        /// Why.
        reason: String,
    },
    /// Source, as the first message of a control connection: no machine moves, this is about how fast the way is. Only with
    /// [`Features::PROBE`](crate::Features::PROBE).
    Probe(Probe),
    /// Destination: what came of a probe. It may [refuse](Self::Refuse) instead.
    Probed(Probed),
}

/// What must have arrived for the machine to be whole.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Complete {
    /// Rounds that were sent, the last pass included.
    pub rounds: u32,
    /// Pages sent, over all channels and rounds.
    pub pages: PageCounts,
    /// Device states sent.
    pub devices: u32,
    /// Whether the machine was running: if not, it stays paused at the destination.
    pub run: bool,
    /// Sums of all pages as they were last sent, in pieces of memory, block after block; if agreed. What a piece and its sum
    /// are, the `ram` crates of both sides know: they are of one protocol version.
    pub digest: Option<Vec<u64>>,
    /// Pages that follow when the machine runs, as [`Message::Missing`] has named them; `None` where all memory has been sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_come: Option<u64>,
}

/// The destination's word on a step, with what the step cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ack {
    /// Nanoseconds from the last needed message to this answer.
    pub nanoseconds: u64,
}

impl Message {
    /// Encodes the message as a whole frame, number `sequence` of its connection.
    ///
    /// # Errors
    /// The message is longer than [`MAX_CONTROL_BYTES`].
    pub fn encode(&self, sequence: u32) -> Result<Vec<u8>, WireError> {
        let mut frame = vec![0; HEADER_BYTES];
        ciborium::into_writer(self, &mut frame).map_err(|error| WireError::Malformed(error.to_string()))?;
        let (header, body) = frame.split_at_mut(HEADER_BYTES);
        match u32::try_from(body.len()) {
            Ok(length) if length <= MAX_CONTROL_BYTES => {}
            _ => {
                let length = body.len().try_into().unwrap_or(u32::MAX);
                return Err(WireError::TooLong {
                    kind: FrameKind::Control,
                    length,
                    limit: MAX_CONTROL_BYTES,
                });
            }
        }
        header.copy_from_slice(&FrameHeader::encode(FrameKind::Control, sequence, body));
        Ok(frame)
    }

    /// Decodes the structured part of a control frame.
    ///
    /// # Errors
    /// It is not one message and nothing else.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut rest = body;
        let message =
            ciborium::from_reader(&mut rest).map_err(|error| WireError::Malformed(error.to_string()))?;
        if rest.is_empty() {
            Ok(message)
        } else {
            Err(WireError::Malformed(format!("{} bytes left over", rest.len())))
        }
    }

    /// The name of the message, for logs and errors.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "Hello",
            Self::Accept(_) => "Accept",
            Self::Refuse(_) => "Refuse",
            Self::ChannelsOpen => "ChannelsOpen",
            Self::Ping(_) => "Ping",
            Self::Pong(_) => "Pong",
            Self::Switchover => "Switchover",
            Self::Device(_) => "Device",
            Self::Complete(_) => "Complete",
            Self::Ready(_) => "Ready",
            Self::Go => "Go",
            Self::Running(_) => "Running",
            Self::NotRunning { .. } => "NotRunning",
            Self::UnknownSession => "UnknownSession",
            Self::Ask { .. } => "Ask",
            Self::Forward(_) => "Forward",
            Self::Missing(_) => "Missing",
            Self::Whole => "Whole",
            Self::Recover => "Recover",
            Self::Recovering { .. } => "Recovering",
            Self::Bye => "Bye",
            Self::Abort { .. } => "Abort",
            Self::Probe(_) => "Probe",
            Self::Probed(_) => "Probed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_back_as_it_was() {
        let message = Message::Complete(Complete {
            rounds: 3,
            pages: PageCounts { raw: u64::MAX, zero: 0, ..PageCounts::default() },
            devices: 9,
            run: true,
            digest: Some(vec![1, u64::MAX]),
            to_come: None,
        });
        let frame = message.encode(5).unwrap();
        let raw: [u8; HEADER_BYTES] = frame[..HEADER_BYTES].try_into().unwrap();
        let header = FrameHeader::decode(&raw).unwrap();
        header.check(&raw, &frame[HEADER_BYTES..], 5).unwrap();
        assert_eq!(Message::decode(&frame[HEADER_BYTES..]), Ok(message));
    }

    #[test]
    fn a_message_over_the_cap_is_not_sent() {
        let reason = "x".repeat(MAX_CONTROL_BYTES as usize);
        assert!(matches!(Message::Abort { reason }.encode(0), Err(WireError::TooLong { .. })));
    }

    #[test]
    fn bytes_behind_a_message_are_an_error() {
        let mut frame = Message::Go.encode(0).unwrap();
        frame.push(0);
        assert!(Message::decode(&frame[HEADER_BYTES..]).is_err());
    }
}
