//! How fast the way to a destination is, measured before there is a migration.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod machine;

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use authority::{Authority, Request};
use migration::{Params, Status};
use transport::{Address, Dialler, Tls, Trust};
use whimbrel_engine::source::{self, Measured, ProbeError};
use wire::{Came, Features, GREETING_BYTES, Greeting, Message, Offer, Probed, Role, SessionId};

use machine::{
    Machine, ram, ram_of,
    travel::{
        Destination, assert_arrived_whole, destination, destination_as, destination_trusting, loopback,
        migrate, migrate_session, new_session,
    },
};

/// More than any probe may take.
const BOUND: Duration = Duration::from_secs(11);

fn probe_trusting(trust: Trust, to: &Address) -> Result<Measured, ProbeError> {
    let began = Instant::now();
    let dialler = Dialler::new(to.clone(), trust);
    let measured = source::probe(&source::Target::new(dialler, new_session(), Offer::of("test")));
    assert!(began.elapsed() < BOUND, "{:?}", began.elapsed());
    measured
}

fn probe(to: &Address) -> Result<Measured, ProbeError> {
    probe_trusting(Trust::ThisHost, to)
}

/// It waits for a machine as if there had been no probe.
fn assert_waits(destination: &Destination) {
    let snapshot = destination.handle.snapshot();
    assert_eq!(
        (snapshot.status, snapshot.last_failure, snapshot.attempt.is_none()),
        (Status::Setup, None, true)
    );
}

fn small_machine() -> Arc<Machine> {
    let machine = Machine::new(ram_of(64), 10);
    machine.fill();
    machine
}

#[test]
fn a_destination_that_was_probed_takes_its_machine() {
    let folder = tempfile::tempdir().unwrap();
    let unix = Address::Unix(folder.path().join("listens.sock"));
    for address in [loopback(), unix] {
        let machine = Machine::new(ram(), 0);
        machine.fill();
        machine.run(64);
        let destination = destination(&address, &machine);
        for _ in 0..2 {
            let measured = probe(destination.address()).unwrap();
            assert!(measured.bytes_per_second > 1_000_000, "{measured:?}");
            assert!(measured.bytes > 0 && measured.bytes <= wire::MAX_PROBE_BYTES, "{measured:?}");
            assert!(!measured.is_encrypted && measured.release == "test", "{measured:?}");
            assert_waits(&destination);
        }
        let params = Params::default().channels(2).digest(wire::Digest::Full);
        let (_handle, notes) = migrate(machine.clone(), destination.address(), params);
        assert_arrived_whole(&machine, &destination, &notes);
    }
}

/// Passes everything on between `between` and `port`, this many bytes a second towards the latter. Ends with the process.
fn slow_way(port: u16, bytes_per_second: u64) -> Address {
    let between = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{}", between.local_addr().unwrap()).parse().unwrap();
    thread::spawn(move || {
        for from in between.incoming() {
            let (Ok(from), Ok(to)) = (from, TcpStream::connect(("127.0.0.1", port))) else { return };
            let back = (to.try_clone().unwrap(), from.try_clone().unwrap());
            thread::spawn(move || carry(back.0, back.1, u64::MAX));
            thread::spawn(move || carry(from, to, bytes_per_second));
        }
    });
    address
}

fn carry(mut from: TcpStream, mut to: TcpStream, bytes_per_second: u64) {
    let (began, mut carried, mut bytes) = (Instant::now(), 0, [0; 4096]);
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        carried += count as u64;
        let due = Duration::from_secs_f64(carried as f64 / bytes_per_second as f64);
        thread::sleep(due.saturating_sub(began.elapsed()));
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

fn port(address: &Address) -> u16 {
    let Address::Tcp { port, .. } = address else { panic!("not TCP") };
    *port
}

#[test]
fn a_slow_way_is_measured_as_slow_as_it_is() {
    const RATE: u64 = 4_000_000;
    let machine = small_machine();
    let destination = destination(&loopback(), &machine);
    let way = slow_way(port(destination.address()), RATE);
    let measured = probe(&way).unwrap();
    // A host that has no time for the way makes it slower, and nothing makes it faster for long.
    assert!((RATE / 8..RATE * 3 / 2).contains(&measured.bytes_per_second), "{measured:?}");
    assert_waits(&destination);
    let (_handle, notes) = migrate(machine.clone(), &way, Params::default().channels(2));
    assert_arrived_whole(&machine, &destination, &notes);
}

#[test]
fn a_destination_of_an_older_release_is_named_and_still_takes_its_machine() {
    let machine = small_machine();
    let without = Features::from_bits(0b1101_0111);
    assert!(Features::OURS.has(without) && !without.has(Features::PROBE));
    let old = Offer { features: without, ..Offer::of("0.0.9") };
    let destination = destination_as(&old, &loopback(), &machine);
    let error = probe(destination.address()).unwrap_err();
    assert!(matches!(&error, ProbeError::Old { release } if release == "0.0.9"), "{error:?}");
    assert_waits(&destination);
    let (_handle, notes) = migrate(machine.clone(), destination.address(), Params::default());
    assert_arrived_whole(&machine, &destination, &notes);
}

#[test]
fn while_a_machine_comes_nothing_is_measured_and_it_comes() {
    let machine = small_machine();
    let destination = destination(&loopback(), &machine);
    let params = Params::default().pause_before_switchover(true);
    let (handle, notes) = migrate(machine.clone(), destination.address(), params);
    while handle.snapshot().status != Status::PreSwitchover {
        assert!(handle.snapshot().status.is_under_way());
        thread::yield_now();
    }
    let error = probe(destination.address()).unwrap_err();
    assert!(
        matches!(&error, ProbeError::Refused { reason } if reason.contains("a machine comes")),
        "{error:?}"
    );
    handle.proceed();
    assert_arrived_whole(&machine, &destination, &notes);
}

#[test]
fn an_encrypted_way_is_measured_encrypted_and_by_nobody_without_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::init(&folder.path().join("ca"), "Example").unwrap();
    let issue = |name: &str, names: &str| {
        let directory = folder.path().join(name);
        authority.issue(&directory, &Request::new([names])).unwrap();
        Tls::new(directory)
    };
    let (ours, other) = (issue("a", "host-a"), issue("c", "host-c"));
    let mut theirs = issue("b", "127.0.0.1");
    theirs.authz = Some("host-a".parse().unwrap());
    let machine = small_machine();
    let offer = Offer::of("test");
    let destination = destination_trusting(&Trust::Certified(theirs), &offer, &loopback(), &machine);
    let address = destination.address();
    for (trust, what) in [(Trust::ThisHost, "in clear"), (Trust::Certified(other), "another source")] {
        let error = probe_trusting(trust, address).unwrap_err();
        assert!(!error.told().is_empty(), "{what}");
        assert_waits(&destination);
    }
    let measured = probe_trusting(Trust::Certified(ours.clone()), address).unwrap();
    assert!(measured.is_encrypted && measured.bytes_per_second > 1_000_000, "{measured:?}");
    assert_waits(&destination);
    let trust = Trust::Certified(ours.clone());
    let (_handle, notes) =
        migrate_session(new_session(), trust, &offer, machine.clone(), address, Params::default());
    assert_arrived_whole(&machine, &destination, &notes);
    // And the other way round.
    let plain = destination_as(&offer, &loopback(), &small_machine());
    let error = probe_trusting(Trust::Certified(ours), plain.address()).unwrap_err();
    assert!(matches!(error, ProbeError::Transport(_)), "{error:?}");
    assert_waits(&plain);
}

#[test]
fn where_nobody_listens_that_is_what_is_said() {
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = probe(&format!("tcp:{unused}").parse().unwrap()).unwrap_err();
    assert!(error.told().contains("check that a destination listens there"), "{}", error.told());
}

/// Something that listens, greets if `greets`, and answers a probe with this; it reads no more than that.
fn pretended(greets: bool, answer: Option<Message>) -> Address {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{}", listener.local_addr().unwrap()).parse().unwrap();
    thread::spawn(move || {
        let mut source = listener.accept().unwrap().0;
        if greets {
            source.read_exact(&mut [0; GREETING_BYTES]).unwrap();
            let greeting = Greeting {
                offer: Offer::of("fake"),
                role: Role::Control,
                index: 0,
                session: SessionId::NONE,
            };
            source.write_all(&greeting.encode()).unwrap();
        }
        if let Some(answer) = answer {
            source.write_all(&answer.encode(0).unwrap()).unwrap();
        }
        // It stays there as long as the process does.
        loop {
            thread::park();
        }
    });
    address
}

#[test]
fn a_destination_that_stalls_is_given_up() {
    let error = probe(&pretended(true, None)).unwrap_err();
    assert!(matches!(error, ProbeError::Stalled { .. }), "{error:?}");
    let error = probe(&pretended(false, None)).unwrap_err();
    assert!(matches!(error, ProbeError::Stranger(_)), "{error:?}");
}

#[test]
fn a_probe_that_measures_nothing_says_so() {
    let came = |bytes, nanoseconds| Came { bytes, nanoseconds };
    for nothing in [
        Probed::default(),
        Probed { whole: came(0, 900_000_000), late: came(0, 450_000_000) },
        // More than was sent.
        Probed { whole: came(u64::MAX, 1), late: came(u64::MAX, 1) },
    ] {
        let error = probe(&pretended(true, Some(Message::Probed(nothing)))).unwrap_err();
        assert!(matches!(error, ProbeError::Nothing { .. }), "{error:?}");
    }
    let error = probe(&pretended(true, Some(Message::Go))).unwrap_err();
    assert!(error.told().contains("answered a probe with Go"), "{}", error.told());
}
