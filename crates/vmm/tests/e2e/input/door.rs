//! Strangers on the port of a destination do not keep a machine from arriving.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    time::Duration,
};

use monitor::types::RunState;
use serde_json::json;
use wire::{ChannelHello, FrameHeader, FrameKind, Message, SessionId};

use crate::harness::{Lab, Spec, Story};

/// A connection to a destination at this address.
fn knock(uri: &str) -> TcpStream {
    let stream = TcpStream::connect(uri.strip_prefix("tcp:").unwrap()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// Whether the other side closes the connection, whatever it says before.
fn is_closed(mut stream: TcpStream) -> bool {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

/// Bytes that are no beginning of a migration.
fn junk() -> Vec<(&'static str, Vec<u8>)> {
    let frame = |kind, body: &[u8]| [&FrameHeader::encode(kind, 0, body)[..], body].concat();
    let mut too_long = frame(FrameKind::Control, b"");
    too_long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut damaged = Message::Ask { session: SessionId([7; 16]) }.encode(0).unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    // A CBOR byte string that says it has 2^60 bytes.
    let promise = [&[0x5b][..], &(1_u64 << 60).to_be_bytes()].concat();
    vec![
        ("a browser", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
        ("a secure browser", [&[0x16, 3, 1, 2, 0][..], &[0; 512]].concat()),
        ("noise", (0..100_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()),
        ("a frame that is too long", too_long),
        ("a length of 2^60 in a frame", frame(FrameKind::Control, &promise)),
        ("a damaged frame", damaged),
        ("an empty message", frame(FrameKind::Control, b"")),
        ("an unknown session", ChannelHello { version: 1, index: 0, session: SessionId([9; 16]) }.encode()),
        ("pages first", frame(FrameKind::Pages, &[0; 16])),
        ("go first", Message::Go.encode(0).unwrap()),
    ]
}

#[test]
fn strangers_are_sent_away_and_the_machine_arrives() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new("work=8M rate=10M");
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    let mut story = Story::of(&source);
    story.filled();
    let uri = destination.listen();
    for (name, bytes) in junk() {
        let mut stream = knock(&uri);
        let _ = stream.write_all(&bytes);
        // A port scanner closes at once; others wait for what comes.
        let _ = stream.shutdown(Shutdown::Write);
        assert!(is_closed(stream), "{name} is not sent away");
    }
    assert_eq!(destination.run_state(), RunState::Inmigrate);
    source.set(json!({ "whimbrel-digest": true }));
    source.moves_to(&destination, &uri);
    story.goes_on_at(&destination);
    story.goes_on(3);
    story.assert_intact();
}

#[test]
fn strangers_who_say_nothing_do_not_hold_the_door() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new("work=8M rate=10M");
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    let mut story = Story::of(&source);
    story.filled();
    let uri = destination.listen();
    let mut silent: Vec<_> = (0..20).map(|_| knock(&uri)).collect();
    for stream in &mut silent[..10] {
        // The beginning of a frame, and then nothing.
        stream.write_all(&FrameHeader::encode(FrameKind::Control, 0, &[0; 64])[..9]).unwrap();
    }
    source.moves_to(&destination, &uri);
    story.goes_on_at(&destination);
    story.goes_on(3);
    story.assert_intact();
}

#[test]
fn strangers_during_a_migration_do_not_disturb_it() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new("work=8M rate=10M");
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    let mut story = Story::of(&source);
    story.filled();
    let uri = destination.listen();
    source.set(json!({ "max-bandwidth": 3_000_000, "whimbrel-digest": true }));
    source.migrate(&uri);
    source.round_is(1);
    for (_, bytes) in junk() {
        let mut stream = knock(&uri);
        let _ = stream.write_all(&bytes);
    }
    source.set(json!({ "max-bandwidth": 0 }));
    source.migration_is(monitor::types::MigrationStatus::Completed);
    story.goes_on_at(&destination);
    story.goes_on(3);
    story.assert_intact();
}

#[test]
fn a_peer_of_another_version_is_told_so() {
    let Some(lab) = Lab::new() else { return };
    let destination = lab.vacancy(&Spec::calm());
    let uri = destination.listen();
    let machine =
        state::DeviceState { id: "machine".into(), kind: "machine".into(), version: 1, body: vec![0xf6] };
    let hello = wire::Hello {
        version: wire::PROTOCOL_VERSION + 100,
        oldest_version: wire::PROTOCOL_VERSION + 99,
        release: "99.0.0".into(),
        session: SessionId([1; 16]),
        channels: 1,
        page_bytes: 4096,
        digest: wire::Digest::Off,
        blocks: Vec::new(),
        devices: Vec::new(),
        machine,
    };
    let mut stream = knock(&uri);
    stream.write_all(&Message::Hello(hello).encode(0).unwrap()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let refusal = Message::decode(&answer[wire::HEADER_BYTES..]).unwrap();
    let Message::Refuse(refuse) = refusal else { panic!("{refusal:?}") };
    assert!(refuse.reasons.iter().any(|reason| reason.contains("protocol 100 to 101")), "{refuse:?}");

    let source = lab.boot(&Spec::calm());
    source.moves_to(&destination, &uri);
}
