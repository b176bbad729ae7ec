//! The proxy between two ends that are seen from both sides.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::process::ExitStatusExt,
    process::{Child, Command},
    time::{Duration, Instant},
};

use whimbrel_faults::{Address, Fault, FrameName, Phase, Processes, Proxy, Which};
use wire::{Ack, Batch, Encoding, Greeting, Message, Offer, PAGE_BYTES, Role, SessionId};

/// A source's and a destination's end of one connection through a proxy.
struct Ends {
    proxy: Proxy,
    listener: TcpListener,
    source: TcpStream,
    destination: TcpStream,
}

/// Long enough for anything that must come, short enough for what must not.
const MOMENT: Duration = Duration::from_millis(150);

fn connect(proxy: &Proxy, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let Address::Tcp { host, port } = proxy.address() else { panic!() };
    let source = TcpStream::connect((host.as_str(), *port)).unwrap();
    let destination = listener.accept().unwrap().0;
    for end in [&source, &destination] {
        end.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    }
    (source, destination)
}

fn ends(faults: &[&str], processes: Processes) -> Ends {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let destination = Address::Tcp { host: "127.0.0.1".into(), port };
    let faults: Vec<Fault> = faults.iter().map(|fault| fault.parse().unwrap()).collect();
    let here = Address::Tcp { host: "127.0.0.1".into(), port: 0 };
    let proxy = Proxy::start(&here, destination, &faults, processes).unwrap();
    let (source, destination) = connect(&proxy, &listener);
    Ends { proxy, listener, source, destination }
}

fn harmed(fault: &str) -> Ends {
    ends(&[fault], Processes::default())
}

fn frame(message: &Message) -> Vec<u8> {
    message.encode(0).unwrap()
}

fn ready() -> Vec<u8> {
    frame(&Message::Ready(Ack { nanoseconds: 7 }))
}

/// What arrives until the end of the stream, and whether that was a reset.
fn rest(mut end: &TcpStream) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    let outcome = end.read_to_end(&mut bytes);
    (bytes, outcome.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset))
}

fn arrives(mut end: &TcpStream, expected: &[u8]) {
    let mut bytes = vec![0; expected.len()];
    end.read_exact(&mut bytes).unwrap();
    assert!(bytes == expected);
}

fn nothing_arrives(mut end: &TcpStream) {
    end.set_read_timeout(Some(MOMENT)).unwrap();
    let error = end.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    end.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
}

#[test]
fn without_harm_everything_passes_both_ways_and_ends_where_it_ends() {
    let mut ends = ends(&[], Processes::default());
    let garbage = b"GET / HTTP/1.1\r\n\r\n";
    ends.source.write_all(&frame(&Message::Go)).unwrap();
    ends.source.write_all(garbage).unwrap();
    ends.source.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&ends.destination), ([&frame(&Message::Go), &garbage[..]].concat(), false));
    ends.destination.write_all(&ready()).unwrap();
    drop(ends.destination);
    assert_eq!(rest(&ends.source), (ready(), false));
    assert_eq!(ends.proxy.struck(), []);
    let passed: Vec<_> = ends.proxy.trace().iter().map(|passed| (passed.name, passed.whole)).collect();
    assert_eq!(passed, [(Some(FrameName::Go), true), (Some(FrameName::Ready), true)]);
}

#[test]
fn a_cut_leaves_what_came_before_and_nothing_of_what_comes_after() {
    for (fault, arrived) in [
        ("cut@control:before:go", 0),
        ("cut@control:after:go", frame(&Message::Go).len()),
        ("cut@control:in:go+5", 5),
        ("cut@any:to-destination:byte:9", 9),
        ("cut@control:to-destination:frame:2", frame(&Message::Go).len()),
    ] {
        let mut ends = harmed(fault);
        let first = frame(&Message::Ping(1));
        ends.source.write_all(&first).unwrap();
        let early = if fault.contains("byte") { 9 } else { first.len() };
        arrives(&ends.destination, &first[..early]);
        // The connection may be gone already.
        let _ = ends.source.write_all(&frame(&Message::Go));
        let _ = ends.source.write_all(&frame(&Message::Bye));
        let arrived = if fault.contains("byte") { 0 } else { arrived };
        assert_eq!(rest(&ends.destination).0, &frame(&Message::Go)[..arrived], "{fault}");
        rest(&ends.source);
        assert_eq!(ends.proxy.struck().len(), 1, "{fault}");
    }
}

#[test]
fn a_reset_is_seen_as_one_by_both_ends() {
    let mut ends = harmed("reset@control:before:ready");
    ends.source.write_all(&frame(&Message::Ping(1))).unwrap();
    arrives(&ends.destination, &frame(&Message::Ping(1)));
    ends.destination.write_all(&ready()).unwrap();
    assert_eq!(rest(&ends.source), (Vec::new(), true));
    assert_eq!(rest(&ends.destination), (Vec::new(), true));
}

#[test]
fn half_a_cut_leaves_the_other_way_open() {
    let mut ends = harmed("half-cut@control:after:go");
    ends.source.write_all(&frame(&Message::Go)).unwrap();
    assert_eq!(rest(&ends.destination), (frame(&Message::Go), false));
    ends.destination.write_all(&ready()).unwrap();
    arrives(&ends.source, &ready());
}

#[test]
fn a_stall_holds_both_ways_up_and_loses_nothing() {
    let mut ends = harmed("stall=400ms@control:before:go");
    let began = Instant::now();
    ends.source.write_all(&frame(&Message::Go)).unwrap();
    nothing_arrives(&ends.destination);
    ends.destination.write_all(&ready()).unwrap();
    arrives(&ends.source, &ready());
    assert!(began.elapsed() >= Duration::from_millis(390), "{:?}", began.elapsed());
    arrives(&ends.destination, &frame(&Message::Go));
}

#[test]
fn nothing_leaves_a_black_hole_and_new_connections_are_fine() {
    let mut ends = harmed("black-hole-all@control:after:go");
    ends.source.write_all(&frame(&Message::Go)).unwrap();
    arrives(&ends.destination, &frame(&Message::Go));
    ends.source.write_all(&frame(&Message::Bye)).unwrap();
    ends.source.shutdown(Shutdown::Both).unwrap();
    nothing_arrives(&ends.destination);
    let (mut source, destination) = connect(&ends.proxy, &ends.listener);
    source.write_all(&frame(&Message::Ask { session: SessionId([1; 16]) })).unwrap();
    arrives(&destination, &frame(&Message::Ask { session: SessionId([1; 16]) }));
    let deadline = Instant::now() + Duration::from_secs(5);
    while ends.proxy.trace().last().unwrap().which != Some(Which::Ask) {
        assert!(Instant::now() < deadline, "{:?}", ends.proxy.trace());
        std::thread::yield_now();
    }
}

#[test]
fn an_outage_ends_all_connections_and_refuses_new_ones_until_it_is_over() {
    let mut ends = harmed("outage=400ms@control:before:go");
    ends.source.write_all(&frame(&Message::Go)).unwrap();
    let began = Instant::now();
    assert!(rest(&ends.source).1 && rest(&ends.destination).1);
    let Address::Tcp { host, port } = ends.proxy.address() else { panic!() };
    let refused = TcpStream::connect((host.as_str(), *port)).unwrap();
    assert_eq!(rest(&refused).0, b"");
    assert!(began.elapsed() < Duration::from_millis(390));
    while began.elapsed() < Duration::from_millis(450) {
        std::thread::yield_now();
    }
    connect(&ends.proxy, &ends.listener);
}

fn channel_greeting(index: u16) -> Vec<u8> {
    let session = SessionId([0; 16]);
    Greeting { offer: Offer::of("test"), role: Role::Pages, index, session }.encode().to_vec()
}

#[test]
fn a_flipped_bit_is_the_only_difference_wherever_it_is() {
    let mut batch = Batch::default();
    batch.push(3, Encoding::Raw);
    let mut sent = channel_greeting(2);
    let hello = sent.len();
    let mut table = Vec::new();
    batch.encode_into(1, &mut table);
    sent.extend(&table);
    sent.extend([0x55; PAGE_BYTES]);
    let length = table.len() + PAGE_BYTES;
    for (fault, at) in [
        ("flip=0@channel2:in:pages+0".to_owned(), hello),
        ("flip=6@channels:in:pages+17".into(), hello + 17),
        (format!("flip=7@any:in:pages+{}", table.len() + 1000), hello + table.len() + 1000),
        // Around the end of the frame.
        (format!("flip=7@any:in:pages+{}", length + 3), hello + 3),
        ("flip=3@any:in:greeting+2".into(), 2),
        ("flip=3@any:to-destination:byte:200".into(), 200),
    ] {
        let mut ends = harmed(&fault);
        ends.source.write_all(&sent).unwrap();
        ends.source.shutdown(Shutdown::Write).unwrap();
        let (arrived, _) = rest(&ends.destination);
        assert_eq!(arrived.len(), sent.len());
        let differ: Vec<_> = (0..sent.len()).filter(|&byte| arrived[byte] != sent[byte]).collect();
        assert_eq!(differ, [at], "{fault}");
        assert_eq!((arrived[at] ^ sent[at]).count_ones(), 1);
    }
}

#[test]
fn pages_after_switchover_are_the_last_ones() {
    let mut ends = harmed("cut@channels:before:last-pages");
    let mut frames = channel_greeting(0);
    let mut batch = Batch::default();
    batch.push(3, Encoding::Zero);
    let mut pages = Vec::new();
    batch.encode_into(1, &mut pages);
    frames.extend(&pages);
    ends.source.write_all(&frames).unwrap();
    arrives(&ends.destination, &frames);
    let (mut control, at_destination) = connect(&ends.proxy, &ends.listener);
    control.write_all(&frame(&Message::Switchover)).unwrap();
    arrives(&at_destination, &frame(&Message::Switchover));
    ends.source.write_all(&pages).unwrap();
    assert_eq!(rest(&ends.destination).0, b"");
    let struck = ends.proxy.struck().pop().unwrap();
    assert_eq!((struck.which, struck.phase), (Some(Which::Channel(0)), Some(Phase::Switchover)));
}

#[test]
fn a_fault_is_counted_out_over_the_connections_that_it_watches() {
    let mut ends = harmed("cut@any:before:go#3");
    let (mut other, at_other) = connect(&ends.proxy, &ends.listener);
    ends.source.write_all(&frame(&Message::Go)).unwrap();
    arrives(&ends.destination, &frame(&Message::Go));
    other.write_all(&frame(&Message::Go)).unwrap();
    arrives(&at_other, &frame(&Message::Go));
    ends.source.write_all(&frame(&Message::Go)).unwrap();
    assert_eq!(rest(&ends.destination).0, b"");
    other.write_all(&frame(&Message::Go)).unwrap();
    arrives(&at_other, &frame(&Message::Go));
}

/// A process that does nothing, and is gone when the test is.
struct Sleeper(Child);

impl Sleeper {
    fn new() -> Self {
        Self(Command::new("sleep").arg("60").spawn().unwrap())
    }

    fn is_stopped(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        stat.rsplit_once(") ").unwrap().1.starts_with('T')
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_process_is_dead_before_anything_else_passes() {
    let mut victim = Sleeper::new();
    let processes = Processes::new(None, Some(victim.0.id())).unwrap();
    let mut ends = ends(&["kill=destination@control:before:go"], processes);
    ends.source.write_all(&frame(&Message::Go)).unwrap();
    arrives(&ends.destination, &frame(&Message::Go));
    let status = victim.0.try_wait().unwrap().expect("it has ended");
    assert_eq!(status.signal(), Some(9));
}

#[test]
fn a_frozen_process_goes_on_after_its_time_or_when_the_proxy_goes() {
    for (fault, drops) in
        [("freeze=source:300ms@control:before:go", false), ("freeze=source:50s@control:before:go", true)]
    {
        let victim = Sleeper::new();
        let processes = Processes::new(Some(victim.0.id()), None).unwrap();
        let mut ends = ends(&[fault], processes);
        ends.source.write_all(&frame(&Message::Go)).unwrap();
        arrives(&ends.destination, &frame(&Message::Go));
        assert!(victim.is_stopped());
        if drops {
            drop(ends.proxy);
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        while victim.is_stopped() {
            assert!(Instant::now() < deadline, "it is still stopped: {fault}");
            std::thread::yield_now();
        }
    }
}

#[test]
fn unix_sockets_are_carried_too() {
    use std::os::unix::net::{UnixListener, UnixStream};
    let folder = tempfile::tempdir().unwrap();
    let (here, there) = (folder.path().join("here"), folder.path().join("there"));
    let listener = UnixListener::bind(&there).unwrap();
    let fault = "cut@control:after:go".parse().unwrap();
    let proxy =
        Proxy::start(&Address::Unix(here.clone()), Address::Unix(there), &[fault], Processes::default())
            .unwrap();
    let mut source = UnixStream::connect(&here).unwrap();
    let mut destination = listener.accept().unwrap().0;
    source.write_all(&frame(&Message::Go)).unwrap();
    let mut bytes = Vec::new();
    destination.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, frame(&Message::Go));
    drop(proxy);
    assert!(!here.exists());
}
