//! What can be known of encrypted messages: their way, their turn, and their length.

use std::ops::RangeInclusive;

use wire::{Ack, Message};

use crate::{FrameName, Phase, Way, Which};

/// Bytes of an encrypted record that are not of the message: its kind, and the tag that every cipher of TLS 1.3 adds (RFC 8446, 5.2).
const OVERHEAD: usize = 1 + 16;
/// Content of a record that is full. Only pages fill records on a page channel.
pub(crate) const FULL: usize = (16 << 10) + OVERHEAD;

/// The message that a record with so many bytes behind its header is taken for; `None` for all that do not lead from one phase to
/// the next.
pub(crate) fn name(which: Which, way: Way, phase: Option<Phase>, length: usize) -> Option<FrameName> {
    let length = length.checked_sub(OVERHEAD)?;
    let found = match (which, way, phase?) {
        (Which::Control, Way::ToDestination, Phase::Handshake | Phase::Rounds) => FrameName::Switchover,
        (Which::Control, Way::ToSource, Phase::Switchover) => FrameName::Ready,
        (Which::Control, Way::ToSource, Phase::HandOver) => FrameName::Running,
        (Which::Control, Way::ToDestination, Phase::HandOver) if lengths(FrameName::Go).contains(&length) => {
            FrameName::Go
        }
        (Which::Control | Which::Ask, Way::ToDestination, _) => FrameName::Bye,
        _ => return None,
    };
    lengths(found).contains(&length).then_some(found)
}

/// How long messages of this name are. *Switchover* is longer than a *ping* whose number is below 65536; *abort* and *not-running* say
/// why in a sentence, and are longer than all of these.
fn lengths(name: FrameName) -> RangeInclusive<usize> {
    let of = |message: Message| message.encode(0).map_or(0, |bytes| bytes.len());
    let acked = |message: fn(Ack) -> Message| {
        of(message(Ack { nanoseconds: 0 }))..=of(message(Ack { nanoseconds: u64::MAX }))
    };
    let exactly = |length| length..=length;
    match name {
        FrameName::Switchover => exactly(of(Message::Switchover)),
        FrameName::Ready => acked(Message::Ready),
        FrameName::Running => acked(Message::Running),
        FrameName::Go => exactly(of(Message::Go)),
        FrameName::Bye => exactly(of(Message::Bye)),
        _ => exactly(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_lead_to_a_phase_are_told_from_others_that_may_come_then() {
        use Phase::{HandOver, Rounds, Switchover};
        use Way::{ToDestination, ToSource};
        let ack = Ack { nanoseconds: 3_000_000 };
        let reason = "The machine was told to stay".to_owned();
        for (way, phase, message, expected) in [
            (ToDestination, Rounds, Message::Switchover, Some(FrameName::Switchover)),
            (ToDestination, Rounds, Message::Ping(65_535), None),
            (ToSource, Switchover, Message::Ready(ack), Some(FrameName::Ready)),
            (ToSource, Switchover, Message::Pong(65_535), None),
            (ToSource, Switchover, Message::Abort { reason: reason.clone() }, None),
            (ToDestination, HandOver, Message::Go, Some(FrameName::Go)),
            (ToDestination, HandOver, Message::Abort { reason: reason.clone() }, None),
            (ToSource, HandOver, Message::Running(ack), Some(FrameName::Running)),
            (ToSource, HandOver, Message::NotRunning { reason }, None),
            (ToDestination, HandOver, Message::Bye, Some(FrameName::Bye)),
        ] {
            let length = message.encode(0).unwrap().len() + OVERHEAD;
            assert_eq!(name(Which::Control, way, Some(phase), length), expected, "{message:?}");
            assert!(expected.is_none_or(FrameName::is_told_encrypted));
        }
        // An alert, as a farewell is one.
        assert_eq!(name(Which::Control, ToDestination, Some(HandOver), 2 + OVERHEAD), None);
    }
}
