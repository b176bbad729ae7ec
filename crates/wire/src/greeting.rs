//! The greeting: the first bytes of every connection, whose layout never changes.
//!
//! ```text
//! source                                   destination
//!   Greeting (role, versions, features) ──▶
//!       ◀── Greeting (versions, features)      control connections and questions only
//! ```
//!
//! Everything behind it is of the version that both sides came to. So two releases that cannot work together still understand
//! each other well enough to say so by name. `docs/compatibility.md` has the promise that rests on it.

use crate::{SessionId, WireError};

/// Bytes of an encoded [`Greeting`].
pub const GREETING_BYTES: usize = 64;

/// Longest name of a release, in bytes; a longer one is cut.
pub const MAX_RELEASE_BYTES: usize = 20;

/// First bytes of every connection. What begins otherwise is of another protocol, and need not be 64 bytes long.
pub const MAGIC: [u8; 8] = *b"WHIMBREL";

/// What a connection is for.
///
/// Roles 4 to 255 are reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Role {
    /// The control connection of an attempt.
    Control = 0,
    /// A page channel of an attempt.
    Pages = 1,
    /// A source that lost its link, and asks what became of its session.
    Ask = 2,
    /// Carries the pages that the running machine waits for, and the requests for them the other way. Only with
    /// [`Features::POSTCOPY`].
    Urgent = 3,
}

/// Abilities beyond those that every release of a protocol version has, one bit each. What only one side has is not used.
///
/// A bit that a release does not know means nothing to it: that is how a later release offers more. Two bits are promised
/// to stay without a meaning, [`Features::NEVER`]: a source offers one of them now and then, so that it stays true that
/// unknown bits do no harm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Features(u64);

/// What one side offers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Offer {
    /// Highest protocol version that it speaks.
    pub newest: u16,
    /// Lowest protocol version that it speaks.
    pub oldest: u16,
    /// What it can do beyond.
    pub features: Features,
    /// Name of its release, for messages only; at most [`MAX_RELEASE_BYTES`] of it travel.
    pub release: String,
}

/// What both sides can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Agreed {
    /// The protocol version of everything behind the greeting.
    pub version: u16,
    /// Features that both have.
    pub features: Features,
}

/// What a source knows of a destination that has answered its greeting, and a destination of its source.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Greeted {
    /// What both sides can do.
    pub agreed: Agreed,
    /// Release of the peer.
    pub release: String,
}

/// Two sides that speak no common version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "The {} (release {}) speaks migration protocol {} to {}, the {} (release {}) {} to {}: upgrade the older of the two",
    .there, .theirs.release, .theirs.oldest, .theirs.newest, .here, .ours.release, .ours.oldest, .ours.newest
)]
pub struct Incompatible {
    /// What the other side is to this one.
    pub there: &'static str,
    /// What it offers.
    pub theirs: Offer,
    /// What this side is.
    pub here: &'static str,
    /// What it offers.
    pub ours: Offer,
}

/// The first bytes of a connection.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 8 | `WHIMBREL` |
/// | 8 | 2 | newest protocol version of the sender |
/// | 10 | 2 | oldest protocol version of the sender |
/// | 12 | 1 | role of the connection |
/// | 13 | 1 | zero, ignored |
/// | 14 | 2 | number of the connection among those of its role, from 0 |
/// | 16 | 16 | session; zeros in an answer |
/// | 32 | 8 | features of the sender |
/// | 40 | 20 | release of the sender, UTF-8, filled up with zeros |
/// | 60 | 4 | CRC-32 (IEEE 802.3) of bytes 0–59 |
///
/// Numbers are little-endian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// What its sender offers.
    pub offer: Offer,
    /// What the connection is for.
    pub role: Role,
    /// Number of the connection among those of its role.
    pub index: u16,
    /// The attempt; [`SessionId::NONE`] in an answer.
    pub session: SessionId,
}

impl Greeting {
    /// Encodes it.
    #[must_use]
    pub fn encode(&self) -> [u8; GREETING_BYTES] {
        let mut bytes = [0; GREETING_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&self.offer.newest.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.offer.oldest.to_le_bytes());
        bytes[12] = self.role as u8;
        bytes[14..16].copy_from_slice(&self.index.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.session.0);
        bytes[32..40].copy_from_slice(&self.offer.features.0.to_le_bytes());
        let release = cut(&self.offer.release).as_bytes();
        bytes[40..40 + release.len()].copy_from_slice(release);
        let crc = crc32fast::hash(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Decodes it.
    ///
    /// # Errors
    /// Bytes of another protocol, damaged ones, or a role that this release does not know.
    pub fn decode(bytes: &[u8; GREETING_BYTES]) -> Result<Self, WireError> {
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        if bytes[..8] != MAGIC {
            return Err(WireError::NotWhimbrel { found: u16::from_be_bytes([bytes[0], bytes[1]]) });
        }
        if crc32fast::hash(&bytes[..60]).to_le_bytes() != bytes[60..] {
            return Err(WireError::Checksum { what: "greeting" });
        }
        let (mut session, mut features) = ([0; 16], [0; 8]);
        session.copy_from_slice(&bytes[16..32]);
        features.copy_from_slice(&bytes[32..40]);
        let release = bytes[40..60].split(|byte| *byte == 0).next().unwrap_or_default();
        // What a peer is called is shown to people.
        let printable = |letter: char| if letter.is_control() { '?' } else { letter };
        let release = String::from_utf8_lossy(release).chars().map(printable).collect();
        let offer = Offer {
            newest: half(8),
            oldest: half(10),
            features: Features(u64::from_le_bytes(features)),
            release,
        };
        let role = Role::from_number(bytes[12])
            .ok_or_else(|| WireError::Role { found: bytes[12], release: offer.release.clone() })?;
        Ok(Self { offer, role, index: half(14), session: SessionId(session) })
    }
}

impl Role {
    fn from_number(number: u8) -> Option<Self> {
        [Self::Control, Self::Pages, Self::Ask, Self::Urgent].into_iter().find(|role| *role as u8 == number)
    }
}

impl Features {
    /// Bits that mean nothing, and never will.
    pub const NEVER: Self = Self(0b11 << 62);

    /// Pages may follow when the machine runs at the destination already: [`Role::Urgent`], [`Hello::postcopy`](crate::Hello::postcopy)
    /// and the messages that say which pages those are.
    pub const POSTCOPY: Self = Self(1);

    /// While pages follow the machine, something comes on each of their connections every second at least: a batch without pages,
    /// where there is nothing else. A destination can take silence for death.
    pub const PULSE: Self = Self(1 << 1);

    /// Where a digest was asked for, each batch of pages that follow the machine has its [sum](crate::Batch::sum).
    pub const SUMS: Self = Self(1 << 2);

    /// What came for the machine while it was on its way is [forwarded](crate::Message::Forward).
    pub const FORWARD: Self = Self(1 << 4);

    /// Of each device whose packets it forwards, and of each that had none, the source says when there are no more: by a
    /// [`Forward`](crate::Forward) without packets.
    pub const FORWARD_ENDS: Self = Self(1 << 5);

    /// What follows the table of a batch may be [packed](crate::Packing).
    pub const PACKING: Self = Self(1 << 6);

    /// Pages that were sent before may come as [differences](crate::Encoding::Delta).
    pub const DELTAS: Self = Self(1 << 7);

    /// A control connection may begin with [`Message::Probe`](crate::Message::Probe), by which no machine moves.
    pub const PROBE: Self = Self(1 << 8);

    /// What this release can do beyond the protocol version.
    pub const OURS: Self = Self(
        Self::POSTCOPY.0
            | Self::PULSE.0
            | Self::SUMS.0
            | Self::FORWARD.0
            | Self::FORWARD_ENDS.0
            | Self::PACKING.0
            | Self::DELTAS.0
            | Self::PROBE.0,
    );

    /// Features by their bits.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// What both have.
    #[must_use]
    pub fn both(self, other: Self) -> Self {
        Self(self.0 & other.0 & !Self::NEVER.0)
    }

    /// These and others.
    #[must_use]
    pub const fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Whether all of `wanted` are there.
    #[must_use]
    pub fn has(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    /// These and one that nobody knows, in half of all sessions.
    #[must_use]
    pub fn and_an_unknown_one(self, session: SessionId) -> Self {
        Self(self.0 | (u64::from(session.0[0] & 1) << 62))
    }
}

impl Offer {
    /// What this build offers, as part of the program that is called `release`.
    #[must_use]
    pub fn of(release: impl Into<String>) -> Self {
        Self {
            newest: crate::PROTOCOL_VERSION,
            oldest: crate::OLDEST_PROTOCOL_VERSION,
            features: Features::OURS,
            release: release.into(),
        }
    }

    /// What a destination with this offer has in common with a source that offers `source`.
    ///
    /// # Errors
    /// There is no version that both speak.
    pub fn with_source(&self, source: &Self) -> Result<Agreed, Incompatible> {
        self.with(source, "source", "destination")
    }

    /// What a source with this offer has in common with a destination that offers `destination`.
    ///
    /// # Errors
    /// There is no version that both speak.
    pub fn with_destination(&self, destination: &Self) -> Result<Agreed, Incompatible> {
        self.with(destination, "destination", "source")
    }

    fn with(&self, theirs: &Self, there: &'static str, here: &'static str) -> Result<Agreed, Incompatible> {
        let version = self.newest.min(theirs.newest);
        if version >= self.oldest && version >= theirs.oldest {
            return Ok(Agreed { version, features: self.features.both(theirs.features) });
        }
        Err(Incompatible { there, theirs: theirs.clone(), here, ours: self.clone() })
    }
}

impl Agreed {
    /// As an offer of just this: what a source says on its further connections.
    #[must_use]
    pub fn offer(self, release: impl Into<String>) -> Offer {
        Offer { newest: self.version, oldest: self.version, features: self.features, release: release.into() }
    }
}

fn cut(release: &str) -> &str {
    let end = (0..=MAX_RELEASE_BYTES.min(release.len())).rev().find(|end| release.is_char_boundary(*end));
    &release[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeting() -> Greeting {
        Greeting {
            offer: Offer {
                newest: 0x0201,
                oldest: 0x0100,
                features: Features(0x8877_6655_4433_2211),
                release: "1.2.3".into(),
            },
            role: Role::Pages,
            index: 0x0403,
            session: SessionId([7; 16]),
        }
    }

    /// These bytes are never to change: releases to come read them.
    #[test]
    fn the_layout_is_frozen() {
        let mut frozen = b"WHIMBREL\x01\x02\x00\x01\x01\x00\x03\x04".to_vec();
        frozen.extend([7; 16]);
        frozen.extend(*b"\x11\x22\x33\x44\x55\x66\x77\x88");
        frozen.extend(*b"1.2.3\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        frozen.extend(crc32fast::hash(&frozen).to_le_bytes());
        assert_eq!(greeting().encode().as_slice(), frozen);
        assert_eq!(Greeting::decode(&greeting().encode()), Ok(greeting()));
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        for bit in 0..GREETING_BYTES * 8 {
            let mut bytes = greeting().encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Greeting::decode(&bytes).is_err(), "flipping bit {bit} went unnoticed");
        }
    }

    #[test]
    fn a_web_browser_is_told_apart() {
        let mut bytes = [b' '; GREETING_BYTES];
        bytes[..14].copy_from_slice(b"GET / HTTP/1.1");
        assert_eq!(Greeting::decode(&bytes), Err(WireError::NotWhimbrel { found: 0x4745 }));
    }

    #[test]
    fn a_role_of_a_later_release_is_refused_by_its_number_and_release() {
        let mut bytes = greeting().encode();
        bytes[12] = 4;
        let crc = crc32fast::hash(&bytes[..60]).to_le_bytes();
        bytes[60..].copy_from_slice(&crc);
        let refused = Greeting::decode(&bytes).unwrap_err();
        assert_eq!(refused, WireError::Role { found: 4, release: "1.2.3".into() });
    }

    #[test]
    fn a_long_release_is_cut_between_letters_and_a_strange_one_is_printable() {
        let mut greeting = greeting();
        greeting.offer.release = format!("{}ö\n", "x".repeat(19));
        let decoded = Greeting::decode(&greeting.encode()).unwrap();
        assert_eq!(decoded.offer.release, "x".repeat(19));
        greeting.offer.release = "a\u{1b}[2J".into();
        assert_eq!(Greeting::decode(&greeting.encode()).unwrap().offer.release, "a?[2J");
    }

    fn offer(oldest: u16, newest: u16, features: u64) -> Offer {
        Offer { newest, oldest, features: Features(features), release: format!("r{newest}") }
    }

    #[test]
    fn any_two_releases_agree_on_the_newest_version_that_both_speak_or_name_each_other() {
        for (ours, theirs) in (0..256).map(|bits: u16| {
            let range = |bits: u16| {
                let (oldest, length) = (1 + (bits & 3), bits >> 2 & 3);
                offer(oldest, oldest + length, u64::from(bits) << 60 | 0b1010 << (bits & 3))
            };
            (range(bits & 15), range(bits >> 4))
        }) {
            let common: Vec<u16> =
                (ours.oldest..=ours.newest).filter(|v| (theirs.oldest..=theirs.newest).contains(v)).collect();
            let here = ours.with_destination(&theirs);
            let there = theirs.with_source(&ours);
            match common.last() {
                Some(&version) => {
                    let agreed = here.unwrap();
                    assert_eq!((agreed.version, Ok(agreed)), (version, there));
                    assert!(ours.features.has(agreed.features) && theirs.features.has(agreed.features));
                    assert_eq!(agreed.features.both(Features::NEVER), Features::default());
                }
                None => {
                    for (refusal, older) in
                        [(here.unwrap_err().to_string(), &ours), (there.unwrap_err().to_string(), &theirs)]
                    {
                        assert!(refusal.contains(&format!("(release {})", older.release)), "{refusal}");
                        assert!(refusal.contains("upgrade the older of the two"), "{refusal}");
                    }
                }
            }
        }
    }

    #[test]
    fn an_unknown_feature_is_offered_in_half_of_all_sessions_and_never_agreed_on() {
        let offered = |byte| Features::OURS.and_an_unknown_one(SessionId([byte; 16]));
        assert_eq!(offered(2), Features::OURS);
        assert_ne!(offered(1), Features::OURS);
        assert_eq!(offered(1).both(Features(u64::MAX)), Features::OURS);
    }
}
