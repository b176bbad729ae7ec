//! Encrypted migrations, and others who have a certificate as well.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod machine;

use std::{
    io::Write,
    net::{Shutdown, TcpListener, TcpStream},
    path::Path,
    time::Duration,
};

use authority::{Authority, Request};
use migration::{Encodings, Params, Status};
use transport::{Address, Connection, PROOF_BYTES, Tls, Trust};
use wire::{Greeting, Message, Offer, Role, SessionId};

use machine::{
    Machine, PAGES, ram,
    travel::{assert_arrived_whole, destination_trusting, loopback, migrate_session, new_session},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// Credentials of a source, and of a destination that lets it and an intruder in.
fn trusts(folder: &Path) -> (Tls, Tls, Tls) {
    let authority = Authority::init(&folder.join("ca"), "Example").unwrap();
    let issue = |name: &str, names: &[&str]| {
        let directory = folder.join(name);
        authority.issue(&directory, &Request::new(names.iter().copied())).unwrap();
        Tls::new(directory)
    };
    let (source, intruder) = (issue("a", &["host-a"]), issue("i", &["host-i"]));
    let mut destination = issue("b", &["127.0.0.1"]);
    destination.authz = Some("host-a;host-i".parse().unwrap());
    (source, destination, intruder)
}

#[test]
fn a_busy_machine_arrives_whole_over_many_encrypted_channels_that_renew_their_keys() {
    let folder = tempfile::tempdir().unwrap();
    let (mut source, destination, _) = trusts(folder.path());
    source.rekey_after = 100_000;
    let offer = Offer::of("test");
    for channels in [1, 4, 16] {
        let machine = Machine::new(ram(), 0);
        machine.fill();
        machine.run(PAGES);
        let trust = Trust::Certified(destination.clone());
        let destination = destination_trusting(&trust, &offer, &loopback(), &machine);
        let params = Params::default().channels(channels).digest(wire::Digest::Full);
        let trust = Trust::Certified(source.clone());
        let (handle, notes) =
            migrate_session(new_session(), trust, &offer, machine.clone(), destination.address(), params);
        assert_arrived_whole(&machine, &destination, &notes);
        let security = handle.snapshot().security.unwrap();
        assert_eq!(security.peer.names, ["ip:127.0.0.1"]);
        assert!(security.rekeys > 0, "{security:?}");
        let there = destination.handle.snapshot().attempt.unwrap().security.unwrap();
        assert_eq!(there.peer.names, ["dns:host-a"]);
    }
}

#[test]
fn encoded_pages_arrive_whole_over_encrypted_channels() {
    let folder = tempfile::tempdir().unwrap();
    let (source, destination, _) = trusts(folder.path());
    let offer = Offer::of("test");
    for packing in [None, Some(wire::Packing::Lz4), Some(wire::Packing::Zstd)] {
        let machine = Machine::new(ram(), 0);
        machine.fill();
        machine.rest.store(100, std::sync::atomic::Ordering::SeqCst);
        machine.run(500);
        let trust = Trust::Certified(destination.clone());
        let destination = destination_trusting(&trust, &offer, &loopback(), &machine);
        let encodings =
            Encodings { packing, zstd_level: 1, deltas: true, cache_bytes: 8 << 20, ..Encodings::default() };
        let params = Params::default().channels(3).digest(wire::Digest::Transfer).encodings(encodings);
        let params = params.downtime_limit(Duration::ZERO);
        let trust = Trust::Certified(source.clone());
        let (handle, notes) =
            migrate_session(new_session(), trust, &offer, machine.clone(), destination.address(), params);
        while handle.snapshot().encoded.deltas < 100 && handle.snapshot().status.is_under_way() {
            std::thread::yield_now();
        }
        handle.set_live(0, Duration::from_millis(300), 0);
        assert_arrived_whole(&machine, &destination, &notes);
        let encoded = handle.snapshot().encoded;
        assert!(encoded.deltas >= 100 && (encoded.packed_pages > 0) == packing.is_some(), "{encoded:?}");
    }
}

/// Says on a connection of its own what belongs to somebody else's session. Returns whether that was answered.
fn intrude(
    address: &Address,
    tls: &Tls,
    session: SessionId,
    role: Role,
    proof: Option<[u8; PROOF_BYTES]>,
) -> bool {
    intrude_as(address, tls, session, role, 0, proof)
}

/// The same, on a connection with this number.
fn intrude_as(
    address: &Address,
    tls: &Tls,
    session: SessionId,
    role: Role,
    index: u16,
    proof: Option<[u8; PROOF_BYTES]>,
) -> bool {
    let connection = Connection::dial(address, &Trust::Certified(tls.clone()), PATIENCE).unwrap();
    let greeting = Greeting { offer: Offer::of("test"), role, index, session };
    connection.send(&greeting.encode()).unwrap();
    if let Some(proof) = proof {
        connection.send(&proof).unwrap();
    }
    if role == Role::Ask {
        // It greets whoever it trusts; what it knows of sessions it keeps.
        connection.receive(&mut [0; wire::GREETING_BYTES]).unwrap();
        let _ = connection.send(&Message::Ask { session }.encode(0).unwrap());
    }
    connection.receive(&mut [0]).is_ok()
}

#[test]
fn who_has_a_certificate_too_can_neither_join_anothers_migration_nor_end_it() {
    let folder = tempfile::tempdir().unwrap();
    let (source, destination, intruder) = trusts(folder.path());
    let offer = Offer::of("test");
    let machine = Machine::new(ram(), 0);
    machine.fill();
    machine.run(PAGES);
    let destination = destination_trusting(&Trust::Certified(destination), &offer, &loopback(), &machine);
    let (session, address) = (new_session(), destination.address().clone());
    let params = Params::default().channels(2).pause_before_switchover(true);
    let trust = Trust::Certified(source.clone());
    let (handle, notes) = migrate_session(session, trust, &offer, machine.clone(), &address, params);
    while handle.snapshot().status != Status::PreSwitchover {
        assert!(handle.snapshot().status.is_under_way());
        std::thread::yield_now();
    }
    // A question would have the destination give the machine up, which it has not got yet.
    for tls in [&intruder, &source] {
        assert!(!intrude(&address, tls, session, Role::Ask, Some([7; PROOF_BYTES])));
        assert!(!intrude(&address, tls, session, Role::Pages, Some([7; PROOF_BYTES])));
    }
    // As does one of a session that it has never heard of.
    assert!(intrude(&address, &intruder, SessionId([9; 16]), Role::Ask, Some([7; PROOF_BYTES])));
    assert!(handle.snapshot().status.is_under_way());
    handle.proceed();
    assert_arrived_whole(&machine, &destination, &notes);
}

#[test]
fn a_machine_comes_through_past_ten_thousand_connections_that_never_finish_their_handshake() {
    const WAVES: usize = 10;
    const WAVE: usize = 1000;
    let folder = tempfile::tempdir().unwrap();
    let (source, destination, _) = trusts(folder.path());
    let offer = Offer::of("test");
    let machine = Machine::new(ram(), 0);
    machine.fill();
    let destination = destination_trusting(&Trust::Certified(destination), &offer, &loopback(), &machine);
    let address = destination.address().clone();
    let Address::Tcp { port, .. } = address else { unreachable!() };
    let mut crowd = Vec::new();
    for _ in 0..WAVES {
        // As many at once as a test may have descriptors for, with the destination's end of each.
        crowd.clear();
        for number in 0..WAVE {
            let mut stranger = TcpStream::connect(("127.0.0.1", port)).unwrap();
            // Nothing, or the beginning of a first message. It may be closed already.
            let _ = stranger.write_all(&[22, 3, 1, 2, 0, 1, 0][..number % 8]);
            crowd.push(stranger);
        }
    }
    let params = Params::default().channels(4);
    let trust = Trust::Certified(source);
    let (_, notes) = migrate_session(new_session(), trust, &offer, machine.clone(), &address, params);
    assert_arrived_whole(&machine, &destination, &notes);
    drop(crowd);
}

/// Passes a source's connections on to `port`. Between accepting one and passing it on, `before` is told how many came before it.
fn pass_on(between: &TcpListener, port: u16, connections: usize, before: impl Fn(usize)) {
    std::thread::scope(|scope| {
        for number in 0..connections {
            let from = between.accept().unwrap().0;
            before(number);
            let to = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let ways = [(from.try_clone().unwrap(), to.try_clone().unwrap()), (to, from)];
            for (mut from, mut to) in ways {
                scope.spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
}

#[test]
fn who_takes_a_page_channels_place_before_it_comes_is_not_let_in_and_does_not_keep_it_out() {
    const CHANNELS: u16 = 2;
    let folder = tempfile::tempdir().unwrap();
    let (source, destination, intruder) = trusts(folder.path());
    let offer = Offer::of("test");
    let machine = Machine::new(ram(), 0);
    machine.fill();
    machine.run(PAGES);
    let destination = destination_trusting(&Trust::Certified(destination), &offer, &loopback(), &machine);
    let (session, address) = (new_session(), destination.address().clone());
    let Address::Tcp { port, .. } = address else { unreachable!() };
    let between = TcpListener::bind("127.0.0.1:0").unwrap();
    let passes = format!("tcp:{}", between.local_addr().unwrap()).parse().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pass_on(&between, port, 1 + usize::from(CHANNELS), |number| {
                // Behind the control connection: the destination waits for page channels, and none has come, or one.
                if number > 0 {
                    for tls in [&intruder, &source] {
                        for index in 0..CHANNELS {
                            let proof = Some([7; PROOF_BYTES]);
                            assert!(!intrude_as(&address, tls, session, Role::Pages, index, proof));
                        }
                    }
                }
            });
        });
        let params = Params::default().channels(CHANNELS);
        let trust = Trust::Certified(source.clone());
        let (_, notes) = migrate_session(session, trust, &offer, machine.clone(), &passes, params);
        assert_arrived_whole(&machine, &destination, &notes);
    });
}
