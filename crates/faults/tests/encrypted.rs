//! The proxy between two ends that speak TLS, as far as it can see that: records, of which nobody here has keys.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use whimbrel_faults::{Address, Fault, FrameName, Passed, Phase, Processes, Proxy, Way, Which};
use wire::{Ack, Message};

/// A source's end and a destination's end of a connection.
struct Ends {
    source: TcpStream,
    destination: TcpStream,
}

/// Takes connections for the proxy, and makes them.
struct Rig {
    proxy: Proxy,
    listener: TcpListener,
}

const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;
/// What encryption adds to a message.
const OVERHEAD: usize = 17;

impl Rig {
    fn new(faults: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let loopback = |port| Address::Tcp { host: "127.0.0.1".into(), port };
        let faults: Vec<Fault> = faults.iter().map(|fault| fault.parse().unwrap()).collect();
        let proxy = Proxy::start(&loopback(0), loopback(port), &faults, Processes::default()).unwrap();
        Self { proxy, listener }
    }

    /// A connection on which both sides have begun to speak TLS.
    fn connect(&self) -> Ends {
        let Address::Tcp { host, port } = self.proxy.address() else { panic!() };
        let source = TcpStream::connect((host.as_str(), *port)).unwrap();
        let destination = self.listener.accept().unwrap().0;
        for end in [&source, &destination] {
            end.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        }
        let mut ends = Ends { source, destination };
        ends.there(&record(HANDSHAKE, 240));
        ends.back(&record(HANDSHAKE, 90));
        ends
    }

    /// All connections of a migration whose machine has stopped.
    fn switched_over(&self) -> (Ends, Vec<Ends>) {
        let mut control = self.connect();
        let mut channels = vec![self.connect(), self.connect()];
        channels.iter_mut().for_each(|channel| channel.there(&pages()));
        control.there(&message(&Message::Switchover));
        (control, channels)
    }

    fn passed(&self, what: impl Fn(&Passed) -> bool) -> bool {
        self.proxy.trace().iter().any(what)
    }

    /// What was struck, once something was.
    fn struck(&self) -> (Option<Which>, Option<FrameName>, Option<Phase>) {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            if let Some(struck) = self.proxy.struck().pop() {
                return (struck.which, struck.name, struck.phase);
            }
            assert!(Instant::now() < deadline, "nothing was struck: {:?}", self.proxy.trace());
            std::thread::yield_now();
        }
    }
}

impl Ends {
    fn there(&mut self, bytes: &[u8]) {
        self.source.write_all(bytes).unwrap();
        arrives(&self.destination, bytes);
    }

    fn back(&mut self, bytes: &[u8]) {
        self.destination.write_all(bytes).unwrap();
        arrives(&self.source, bytes);
    }
}

fn record(kind: u8, length: usize) -> Vec<u8> {
    let mut record = vec![kind, 3, 3, (length >> 8) as u8, length as u8];
    record.extend((0..length).map(|byte| byte as u8));
    record
}

/// A record in which this message is.
fn message(message: &Message) -> Vec<u8> {
    record(DATA, message.encode(0).unwrap().len() + OVERHEAD)
}

/// As many pages as there is room for in a record.
fn pages() -> Vec<u8> {
    record(DATA, (16 << 10) + OVERHEAD)
}

fn ready() -> Vec<u8> {
    message(&Message::Ready(Ack { nanoseconds: 4_000_000 }))
}

fn running() -> Vec<u8> {
    message(&Message::Running(Ack { nanoseconds: 4_000_000 }))
}

fn arrives(mut end: &TcpStream, expected: &[u8]) {
    let mut bytes = vec![0; expected.len()];
    end.read_exact(&mut bytes).unwrap();
    assert!(bytes == expected);
}

/// What arrives until the end of the stream.
fn rest(mut end: &TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Whether it ends or breaks makes no difference here.
    let _ = end.read_to_end(&mut bytes);
    bytes
}

#[test]
fn a_migration_passes_unchanged_and_its_phases_are_told() {
    let mut rig = Rig::new(&[]);
    let (mut control, mut channels) = rig.switched_over();
    channels[1].there(&record(DATA, 300));
    control.there(&record(DATA, 5000));
    control.back(&ready());
    control.there(&message(&Message::Go));
    control.back(&running());
    control.there(&message(&Message::Bye));
    // What has passed on is noted after that, and by then something may have come the other way.
    rig.proxy.close();
    let mut passed = rig.proxy.trace();
    passed.sort_by_key(|passed| passed.at);
    let named: Vec<_> = passed.into_iter().filter_map(|passed| passed.name).collect();
    assert_eq!(
        named,
        [FrameName::Switchover, FrameName::Ready, FrameName::Go, FrameName::Running, FrameName::Bye]
    );
    for (which, phase) in [
        (Which::Control, Phase::Handshake),
        (Which::Channel(0), Phase::Handshake),
        (Which::Channel(0), Phase::Rounds),
        (Which::Channel(1), Phase::Switchover),
        (Which::Control, Phase::Switchover),
    ] {
        let phase_of = |passed: &Passed| (passed.which, passed.phase) == (Some(which), Some(phase));
        assert!(rig.passed(phase_of), "{which} in {}: {:?}", phase.name(), rig.proxy.trace());
    }
}

#[test]
fn connections_are_what_their_order_says() {
    for (fault, which) in [
        ("cut@control:to-destination:byte:245", Which::Control),
        ("cut@channel0:to-destination:byte:245", Which::Channel(0)),
        ("cut@channel1:to-destination:byte:245", Which::Channel(1)),
    ] {
        let rig = Rig::new(&[fault]);
        let mut all = [rig.connect(), rig.connect(), rig.connect()];
        // Those on which nothing is to happen carry on.
        for (number, ends) in all.iter_mut().enumerate().rev() {
            let is_cut = number
                == match which {
                    Which::Channel(number) => usize::from(number) + 1,
                    _ => 0,
                };
            if is_cut {
                ends.source.write_all(&record(DATA, 100)).unwrap();
                assert_eq!(rest(&ends.destination), b"", "{fault}");
                assert_eq!(rig.struck(), (Some(which), None, Some(Phase::Handshake)), "{fault}");
            } else {
                ends.there(&record(DATA, 100));
            }
        }
    }
}

#[test]
fn who_comes_after_ready_asks_and_who_comes_after_the_end_begins_anew() {
    let faults = ["cut@ask:to-destination:asking:245", "cut@control:to-destination:byte:500"];
    let rig = Rig::new(&faults);
    let (mut control, _channels) = rig.switched_over();
    control.back(&ready());
    control.source.shutdown(Shutdown::Both).unwrap();
    let mut ask = rig.connect();
    ask.source.write_all(&record(DATA, 100)).unwrap();
    assert_eq!(rest(&ask.destination), b"");
    assert_eq!(rig.struck(), (Some(Which::Ask), None, Some(Phase::Asking)));
    rig.connect().there(&message(&Message::Bye));
    // The question is answered: what comes now is another migration.
    let mut another = rig.connect();
    another.source.write_all(&record(DATA, 600)).unwrap();
    assert_eq!(rest(&another.destination).len(), 500 - 245);
    assert_eq!(rig.struck(), (Some(Which::Control), None, Some(Phase::Handshake)));
}

#[test]
fn a_migration_whose_source_left_it_is_followed_by_another() {
    let rig = Rig::new(&["cut@control:to-destination:byte:700"]);
    let control = rig.connect();
    let _channel = rig.connect();
    control.source.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&control.destination), b"");
    let mut again = rig.connect();
    again.source.write_all(&record(DATA, 600)).unwrap();
    assert_eq!(rest(&again.destination).len(), 700 - 245);
    assert_eq!(rig.struck().0, Some(Which::Control));
}

#[test]
fn a_byte_of_a_phase_is_counted_from_where_the_phase_begins() {
    let rig = Rig::new(&["flip=4@channels:to-destination:switchover:20"]);
    let (_control, mut channels) = rig.switched_over();
    let sent = record(DATA, 40);
    channels[1].source.write_all(&sent).unwrap();
    let mut arrived = vec![0; sent.len()];
    channels[1].destination.read_exact(&mut arrived).unwrap();
    let differ: Vec<_> = (0..sent.len()).filter(|&byte| arrived[byte] != sent[byte]).collect();
    assert_eq!(differ, [20]);
    assert_eq!(arrived[20] ^ sent[20], 1 << 4);
    assert_eq!(rig.struck(), (Some(Which::Channel(1)), None, Some(Phase::Switchover)));
}

#[test]
fn messages_of_the_hand_over_can_be_struck_by_name() {
    for (fault, name, arrives_back) in [
        ("cut@control:before:ready", FrameName::Ready, 0),
        ("cut@control:in:ready+7", FrameName::Ready, 7),
        ("cut@control:after:ready", FrameName::Ready, ready().len()),
    ] {
        let rig = Rig::new(&[fault]);
        let (mut control, _channels) = rig.switched_over();
        control.destination.write_all(&ready()).unwrap();
        assert_eq!(rest(&control.source).len(), arrives_back, "{fault}");
        assert_eq!(rig.struck(), (Some(Which::Control), Some(name), Some(Phase::HandOver)));
    }
    let rig = Rig::new(&["black-hole@control:before:go"]);
    let (mut control, _channels) = rig.switched_over();
    control.back(&ready());
    control.source.write_all(&message(&Message::Go)).unwrap();
    assert_eq!(rig.struck(), (Some(Which::Control), Some(FrameName::Go), Some(Phase::HandOver)));
    let whole = |passed: &Passed| passed.name == Some(FrameName::Go) && passed.whole;
    assert!(!rig.passed(whole), "{:?}", rig.proxy.trace());
}

#[test]
fn half_a_record_is_passed_on_when_nothing_follows() {
    let mut rig = Rig::new(&[]);
    let mut ends = rig.connect();
    let mut sent = record(DATA, 100);
    sent.truncate(60);
    ends.source.write_all(&sent).unwrap();
    ends.source.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&ends.destination), sent);
    ends.back(&record(DATA, 30));
    rig.proxy.close();
    let back = |passed: &Passed| passed.way == Way::ToSource && passed.name.is_none();
    assert!(rig.passed(back));
}
