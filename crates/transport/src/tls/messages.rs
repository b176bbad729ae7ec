//! What a record carries after the handshake (RFC 8446, 4.6 and 6).

use rustls::{AlertDescription, Error, InvalidMessage, PeerMisbehaved};

use super::{Side, records::Kind};

const KEY_UPDATE: u8 = 24;
const NEW_SESSION_TICKET: u8 = 4;
const CLOSE_NOTIFY: u8 = 0;
const USER_CANCELED: u8 = 90;
const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// Says that the records behind it are sealed with the next keys, and does not ask for the same from the other side.
pub(super) const KEYS_ARE_RENEWED: [u8; 5] = [KEY_UPDATE, 0, 0, 1, 0];
/// Says that nothing follows.
pub(super) const FAREWELL: [u8; 2] = [WARNING, CLOSE_NOTIFY];

/// What the other side says with one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// What the record carries is for the user of the connection.
    Bytes,
    /// Nothing that means anything here.
    Nothing,
    /// What follows is sealed with the next keys.
    KeysAreRenewed {
        /// This side is to do the same before it sends anything else.
        yours_too: bool,
    },
    /// Nothing follows.
    End,
}

impl Message {
    /// What `from` says with `content` of that kind.
    ///
    /// # Errors
    /// An alert, or what has no place after the handshake.
    pub(super) fn read(kind: Kind, content: &[u8], from: Side) -> Result<Self, Error> {
        match (kind, content) {
            (Kind::Data, []) => Ok(Self::Nothing),
            (Kind::Data, _) => Ok(Self::Bytes),
            (Kind::Alert, &[_, CLOSE_NOTIFY]) => Ok(Self::End),
            (Kind::Alert, &[_, USER_CANCELED]) => Ok(Self::Nothing),
            // Whatever it calls itself, it is the end.
            (Kind::Alert, &[_, alert]) => Err(Error::AlertReceived(alert.into())),
            (Kind::Alert, _) => Err(InvalidMessage::MessageTooShort.into()),
            (Kind::Handshake, messages) => of_handshake(messages, from),
        }
    }
}

/// Messages must be whole: those that come here have a few bytes, and no peer has a reason to cut them into two records.
fn of_handshake(mut messages: &[u8], from: Side) -> Result<Message, Error> {
    if messages.is_empty() {
        return Err(PeerMisbehaved::MessageInterleavedWithHandshakeMessage.into());
    }
    let mut said = Message::Nothing;
    while let Some((&[kind, high, middle, low], rest)) = messages.split_first_chunk() {
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        let Some((content, rest)) = rest.split_at_checked(length) else { break };
        messages = rest;
        match (kind, content, from) {
            (KEY_UPDATE, &[asked @ (0 | 1)], _) if messages.is_empty() => {
                said = Message::KeysAreRenewed { yours_too: asked == 1 };
            }
            // What is behind it in the same record cannot be sealed with the next keys.
            (KEY_UPDATE, &[0 | 1], _) => return Err(PeerMisbehaved::KeyEpochWithPendingFragment.into()),
            (KEY_UPDATE, _, _) => return Err(InvalidMessage::InvalidKeyUpdate.into()),
            // Nothing is resumed.
            (NEW_SESSION_TICKET, _, Side::Destination) => {}
            _ => return Err(InvalidMessage::UnexpectedMessage("a message after the handshake").into()),
        }
    }
    match messages {
        [] => Ok(said),
        _ => Err(PeerMisbehaved::MessageInterleavedWithHandshakeMessage.into()),
    }
}

/// The alert that says to the other side why this one ends the connection. `None` where it knows.
pub(super) fn alert(error: &Error) -> Option<[u8; 2]> {
    let alert = match error {
        Error::AlertReceived(_) => return None,
        Error::DecryptError => AlertDescription::BadRecordMac,
        Error::PeerSentOversizedRecord => AlertDescription::RecordOverflow,
        Error::InvalidMessage(InvalidMessage::UnexpectedMessage(_)) | Error::PeerMisbehaved(_) => {
            AlertDescription::UnexpectedMessage
        }
        Error::InvalidMessage(_) => AlertDescription::DecodeError,
        _ => AlertDescription::InternalError,
    };
    Some([FATAL, alert.into()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: Kind, content: &[u8]) -> Result<Message, Error> {
        Message::read(kind, content, Side::Source)
    }

    #[test]
    fn keys_are_renewed_by_a_message_that_is_the_last_of_its_record() {
        let renewed = |yours_too| Ok(Message::KeysAreRenewed { yours_too });
        assert_eq!(read(Kind::Handshake, &KEYS_ARE_RENEWED), renewed(false));
        assert_eq!(read(Kind::Handshake, &[24, 0, 0, 1, 1]), renewed(true));
        for wrong in [
            &[24, 0, 0, 1, 2][..],
            &[24, 0, 0, 0],
            &[24, 0, 0, 2, 0, 0],
            &[24, 0, 0, 1, 0, 24, 0, 0, 1, 0],
            &[24, 0, 0, 1, 0, 4],
            &[24],
            &[24, 0, 0, 1],
            &[24, 255, 255, 255, 0],
            &[],
        ] {
            assert!(read(Kind::Handshake, wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn tickets_of_a_destination_are_of_no_use_and_of_a_source_wrong() {
        let tickets = [4, 0, 0, 2, 9, 9, 4, 0, 0, 0];
        assert_eq!(Message::read(Kind::Handshake, &tickets, Side::Destination), Ok(Message::Nothing));
        assert!(read(Kind::Handshake, &tickets).is_err());
        let renewed = [&tickets[..], &KEYS_ARE_RENEWED].concat();
        let read = Message::read(Kind::Handshake, &renewed, Side::Destination);
        assert_eq!(read, Ok(Message::KeysAreRenewed { yours_too: false }));
    }

    #[test]
    fn every_alert_but_two_is_an_error() {
        assert_eq!(read(Kind::Alert, &FAREWELL), Ok(Message::End));
        assert_eq!(read(Kind::Alert, &[1, 90]), Ok(Message::Nothing));
        for level in [1, 2] {
            let received = Error::AlertReceived(AlertDescription::BadRecordMac);
            assert_eq!(read(Kind::Alert, &[level, 20]), Err(received.clone()));
            assert_eq!(alert(&received), None, "who says so knows");
        }
        for wrong in [&[][..], &[2], &[2, 20, 0]] {
            assert!(read(Kind::Alert, wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_other_side_is_told_what_was_wrong() {
        assert_eq!(alert(&Error::DecryptError), Some([2, 20]));
        assert_eq!(alert(&Error::PeerSentOversizedRecord), Some([2, 22]));
        assert_eq!(alert(&read(Kind::Handshake, &[1, 0, 0, 0]).unwrap_err()), Some([2, 10]));
        assert_eq!(alert(&read(Kind::Alert, &[2]).unwrap_err()), Some([2, 50]));
    }
}
