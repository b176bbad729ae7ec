//! TLS: a stranger's handshake, and what records carry after a true one.

use authority::{Authority, Request};
use tempfile::TempDir;
use transport::{
    Side,
    fuzzing::{self, Arrival, Handshakes, Received},
};

/// What a record says of its content with the last byte that is not zero (RFC 8446, 5.1).
const DATA: u8 = 23;
/// Most bytes that a record may carry.
const MOST: usize = 16 << 10;
/// Records of one input: more than may carry nothing in a row.
const MOST_ARRIVALS: usize = 40;

thread_local! {
    /// Certificates, and the directory that they are in as long as this thread is there.
    static WORLD: (TempDir, Handshakes) = {
        let folder = tempfile::tempdir().expect("a folder for certificates");
        let authority = Authority::init(&folder.path().join("ca"), "Fuzzing").expect("an authority");
        let host = folder.path().join("host");
        authority.issue(&host, &Request::new(["127.0.0.1"])).expect("certificates");
        let handshakes = Handshakes::new(&host).expect("certificates that can be used");
        (folder, handshakes)
    };
}

/// Someone without a certificate dials a destination, or is dialled by a source: the last byte says which.
pub(crate) fn stranger(bytes: &[u8]) {
    let Some((who, bytes)) = bytes.split_last() else { return };
    let side = if who % 2 == 0 { Side::Destination } else { Side::Source };
    let met = WORLD.with(|(_, handshakes)| handshakes.meet(side, bytes)).expect("sockets");
    let error = met.error.unwrap_or_else(|| panic!("a stranger was let in at the {}", side.name()));
    assert!(!error.to_string().is_empty(), "{error:?} says nothing");
    // A record of the handshake, or an alert.
    assert!(met.answer.first().is_none_or(|kind| [21, 22].contains(kind)), "{:?}", met.answer);
}

/// What either side says first in a handshake, which is real but for that the other side has not said that.
pub(crate) fn stranger_seeds() -> Vec<Vec<u8>> {
    let answer = |side, bytes: &[u8]| {
        WORLD.with(|(_, handshakes)| handshakes.meet(side, bytes)).expect("sockets").answer
    };
    let hello = answer(Side::Source, &[]);
    let flight = answer(Side::Destination, &hello);
    let changed = [&hello[..], &[20, 3, 3, 0, 1, 1], &[23, 3, 3, 0, 40], &[0; 40]].concat();
    let plain = b"WHIMBREL in clear, as a source that does not know better sends it";
    [(&hello[..], 0), (&flight, 1), (&changed, 0), (&flight, 0), (&hello, 1), (plain, 0), (plain, 1)]
        .map(|(bytes, who)| [bytes, &[who]].concat())
        .to_vec()
}

/// Records of a true peer, and what somebody else puts between them. Each is a byte that says what it is, the number of zeros behind
/// the content in units of 64, the length of the content in two bytes, and the content with its kind.
pub(crate) fn records(bytes: &[u8]) {
    let Some((piece, bytes)) = bytes.split_last() else { return };
    let arrivals = arrivals(bytes);
    let received = fuzzing::receive(&arrivals, usize::MAX).expect("sockets");
    let again = fuzzing::receive(&arrivals, usize::from(*piece) * 7).expect("sockets");
    assert_eq!(received, again, "in pieces of {} bytes", usize::from(*piece) * 7);
    let is_forged = |arrival: &Arrival<'_>| matches!(arrival, Arrival::Forged([_, ..]));
    let true_ones = arrivals.iter().take_while(|arrival| !is_forged(arrival));
    let sent: Vec<_> = true_ones.map(|arrival| data(arrival)).collect();
    let all: Vec<u8> = sent.iter().flatten().copied().flatten().copied().collect();
    assert!(all.starts_with(&received.bytes), "something was handed over that was not sent so");
    if sent.iter().all(Option::is_some) && !arrivals.iter().any(is_forged) {
        assert_eq!(received, Received { bytes: all, end: None }, "nothing but data was sent");
    }
}

fn arrivals(mut bytes: &[u8]) -> Vec<Arrival<'_>> {
    let mut arrivals = Vec::new();
    while let (0..MOST_ARRIVALS, Some((&[what, zeros, high, low], rest))) =
        (arrivals.len(), bytes.split_first_chunk())
    {
        let (content, rest) = rest.split_at(usize::from(u16::from_be_bytes([high, low])).min(rest.len()));
        bytes = rest;
        arrivals.push(match what % 8 {
            0 => Arrival::Forged(content),
            1 => Arrival::Sealed(content, usize::from(zeros) * 256),
            _ => Arrival::Sealed(content, usize::from(zeros % 4)),
        });
    }
    arrivals
}

/// What a record hands over that carries data and is as it should be.
fn data<'b>(arrival: &Arrival<'b>) -> Option<&'b [u8]> {
    let Arrival::Sealed(inner, zeros) = arrival else { return None };
    let end = inner.iter().rposition(|byte| *byte != 0)?;
    (inner[end] == DATA && end > 0 && inner.len() + zeros <= MOST + 1).then_some(&inner[..end])
}

pub(crate) fn record_seeds() -> Vec<Vec<u8>> {
    let record = |what: u8, zeros: u8, content: &[u8]| {
        let [high, low] = (content.len() as u16).to_be_bytes();
        [&[what, zeros, high, low][..], content].concat()
    };
    let of = |records: &[Vec<u8>], piece: u8| [records.concat(), vec![piece]].concat();
    let (data, farewell) = (record(2, 0, b"page after page\x17"), record(2, 0, &[1, 0, 21]));
    vec![
        of(&[data.clone(), record(3, 1, b"and more\x17"), data.clone()], 1),
        of(&[data.clone(), record(2, 0, &[24, 0, 0, 1, 1, 22]), data.clone()], 9),
        of(&[record(2, 0, &[4, 0, 0, 2, 9, 9, 4, 0, 0, 0, 22]), data.clone(), farewell, data.clone()], 3),
        of(&[data.clone(), record(0, 0, &[23, 3, 3, 0, 17]), record(0, 0, &[0; 17]), data.clone()], 0),
        of(&[record(0, 0, &[23, 3, 3, 0xff, 0xff]), data.clone()], 2),
        of(&[record(1, 64, &[23]), record(1, 65, &[23]), record(1, 255, &[0]), data.clone()], 200),
        of(&vec![record(2, 0, &[23]); 33], 50),
        of(&[data, record(2, 0, &[2, 20, 21])], 7),
    ]
}

/// What a record carries that is not data; the first byte says of which kind it is, and which side has sent it.
pub(crate) fn message(bytes: &[u8]) {
    let Some((how, content)) = bytes.split_first() else { return };
    let from = if how & 0x80 == 0 { Side::Source } else { Side::Destination };
    let (said, alert) = fuzzing::message(how & 0x7f, content, from);
    match said {
        Ok(said) => {
            assert!(alert.is_none());
            assert_eq!(said == "Bytes", (how & 0x7f) % 3 == 2 && !content.is_empty());
        }
        Err(error) => {
            assert!(!error.is_empty(), "the error says nothing");
            assert!(alert.is_none_or(|[level, _]| level == 2), "{alert:?}");
        }
    }
}

pub(crate) fn message_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for from in [0, 0x80] {
        for (kind, content) in [
            (0, &[1, 0][..]),
            (0, &[1, 90]),
            (0, &[2, 20]),
            (1, &[24, 0, 0, 1, 1]),
            (1, &[24, 0, 0, 1, 2]),
            (1, &[4, 0, 0, 2, 9, 9, 4, 0, 0, 0]),
            (1, &[4, 255, 255, 255, 9]),
            (1, &[4, 0, 0, 0, 24, 0, 0, 1, 0]),
            (2, b"page"),
            (2, b""),
        ] {
            seeds.push([&[from | kind], content].concat());
        }
    }
    seeds
}
