use std::{io::Write, net::TcpStream, time::Duration};

use migration::{Outcome, Status};
use transport::Address;
use wire::{FrameHeader, FrameKind, Message};

use crate::{
    assert_moves, assert_moves_soon, assert_runs_here, checked, destination,
    machine::travel::{Destination, assert_arrived_whole, migrate},
    running_machine, watch,
};

fn connect(destination: &Destination) -> TcpStream {
    let Address::Tcp { host, port } = destination.address() else { panic!("not TCP") };
    TcpStream::connect((host.as_str(), *port)).unwrap()
}

/// What a stranger sends, each by name.
fn greetings() -> Vec<(&'static str, Vec<u8>)> {
    let mut noise = 1_u64;
    let random = (0..4096).map(|_| {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (noise >> 56) as u8
    });
    let mut length = FrameHeader::encode(FrameKind::Control, 0, &[]).to_vec();
    length[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    // A message that says that it is a list of 2^60 reasons, with the right checksum.
    let reasons =
        [&[0xA1, 0x66][..], b"Refuse", &[0xA1, 0x67], b"reasons", &[0x9B], &(1_u64 << 60).to_be_bytes()];
    let reasons = reasons.concat();
    let claim = [&FrameHeader::encode(FrameKind::Control, 0, &reasons)[..], &reasons].concat();
    let go = Message::Go.encode(0).unwrap();
    let second = Message::Ask { session: wire::SessionId([9; 16]) }.encode(1).unwrap();
    let nested = vec![0x81; 1 << 20];
    let nested = [&FrameHeader::encode(FrameKind::Control, 0, &nested)[..], &nested].concat();
    vec![
        ("random bytes", random.collect()),
        ("a browser", b"GET / HTTP/1.1\r\nHost: destination\r\n\r\n".to_vec()),
        ("TLS", vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("2^60 as it is", (1_u64 << 60).to_le_bytes().repeat(4)),
        ("a length over the cap", length),
        ("a list of 2^60", claim),
        ("a message without end", nested),
        ("go", go),
        ("a second frame first", second),
        ("a page frame", FrameHeader::encode(FrameKind::Pages, 0, &[0; 8]).to_vec()),
    ]
}

#[test]
fn strangers_leave_no_trace() {
    watch::panics();
    let machine = running_machine();
    let destination = destination(&machine);
    let before = watch::resident();
    for (name, greeting) in greetings() {
        for length in [greeting.len(), greeting.len() / 2, 1] {
            // The destination may close before everything is sent.
            let _ = connect(&destination).write_all(&greeting[..length]);
        }
        assert_eq!(destination.handle.snapshot().status, Status::Setup, "{name}");
        assert_eq!(destination.handle.snapshot().last_failure, None, "{name}");
    }
    let grown = watch::resident().saturating_sub(before);
    assert!(grown < 100, "{grown} MiB");
    assert_runs_here(&machine, &destination);
    assert_moves(&machine, &destination);
}

#[test]
fn a_good_migration_gets_past_a_crowd_that_says_nothing() {
    watch::panics();
    let machine = running_machine();
    let destination = destination(&machine);
    // More than are let in to introduce themselves at once, and all of them stay.
    let mut crowd: Vec<_> = (0..300).map(|_| connect(&destination)).collect();
    let slow = checked().max_bandwidth(4 << 20).channels(8);
    let (handle, notes) = migrate(machine.clone(), destination.address(), slow);
    for (_, greeting) in greetings().iter().cycle().take(100) {
        let mut stranger = connect(&destination);
        let _ = stranger.write_all(greeting);
        crowd.push(stranger);
        crowd.push(connect(&destination));
        drop(connect(&destination));
    }
    handle.set_live(0, Duration::from_millis(300), 0);
    // On a host so busy that 128 others come before a channel of the source has its turn, that is closed for them: the machine stays, and
    // gets past those that are there now.
    if notes.outcome() != Outcome::Completed {
        let Outcome::Failed(reason) = notes.outcome() else { panic!("{:?}", notes.outcome()) };
        assert!(reason.contains("closed the connection"), "{reason}");
        handle.join();
        return assert_moves_soon(&machine, &destination);
    }
    assert_arrived_whole(&machine, &destination, &notes);
    watch::assert_no_panic();
}
