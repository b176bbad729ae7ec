//! Strangers on the port of a destination do not keep a machine from arriving.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    time::Duration,
};

use monitor::types::RunState;
use serde_json::json;
use wire::{FrameHeader, FrameKind, GREETING_BYTES, Greeting, Message, Offer, Role, SessionId};

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

fn greeting(role: Role) -> [u8; GREETING_BYTES] {
    Greeting { offer: Offer::of("test"), role, index: 0, session: SessionId([9; 16]) }.encode()
}

/// Bytes behind the greeting of a source.
fn greeted(bytes: &[u8]) -> Vec<u8> {
    [&greeting(Role::Control)[..], bytes].concat()
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
        ("a frame without a greeting", Message::Go.encode(0).unwrap()),
        ("half a greeting", greeting(Role::Control)[..40].to_vec()),
        ("a frame that is too long", greeted(&too_long)),
        ("a length of 2^60 in a frame", greeted(&frame(FrameKind::Control, &promise))),
        ("a damaged frame", greeted(&damaged)),
        ("an empty message", greeted(&frame(FrameKind::Control, b""))),
        ("an unknown session", greeting(Role::Pages).to_vec()),
        ("pages first", greeted(&frame(FrameKind::Pages, &[0; 16]))),
        ("go first", greeted(&Message::Go.encode(0).unwrap())),
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
fn strangers_who_say_nothing_do_not_keep_a_source_out() {
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
    let newest = wire::PROTOCOL_VERSION + 100;
    let offer = Offer { newest, oldest: newest - 1, ..Offer::of("99.0.0") };
    let greeting =
        Greeting { offer: offer.clone(), role: Role::Control, index: 0, session: SessionId([1; 16]) };
    let mut stream = knock(&uri);
    stream.write_all(&greeting.encode()).unwrap();
    // It says what it is, so that the newer side can tell its user, and hangs up.
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = Greeting::decode(answer.as_slice().try_into().unwrap()).unwrap();
    let refusal = offer.with_destination(&answer.offer).unwrap_err().to_string();
    let protocol = wire::PROTOCOL_VERSION;
    for part in [format!("protocol {protocol} to {protocol}"), "(release 99.0.0) 100 to 101".into()] {
        assert!(
            refusal.contains(&part.replace("100 to 101", &format!("{} to {newest}", newest - 1))),
            "{refusal}"
        );
    }

    let source = lab.boot(&Spec::calm());
    Story::of(&source).filled();
    source.moves_to(&destination, &uri);
}
