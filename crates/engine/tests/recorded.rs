//! Migrations of released protocol versions, recorded byte for byte in both directions, against the code of today.
//!
//! `tests/recorded/vN` has what went over each connection of a small migration when version N was released. A destination of
//! today must take the machine from the recorded source, and a source of today must hand one to the recorded destination.
//! As long as version N is spoken these files stay. `WHIMBREL_BLESS=1` records a version whose files are missing.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod machine;

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    path::PathBuf,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use machine::{
    Machine, ram_of,
    travel::{destination, loopback, migrate},
};
use migration::{Outcome, Params};
use transport::Address;
use whimbrel_engine::SourceMachine as _;
use wire::{FrameHeader, GREETING_BYTES, Greeting, HEADER_BYTES, Message};

/// Every version that is still spoken.
const VERSIONS: [u16; 1] = [1];
const CHANNELS: u16 = 2;
const PAGES: u64 = 64;

#[test]
fn every_version_that_is_spoken_is_recorded() {
    let spoken: Vec<u16> = (wire::OLDEST_PROTOCOL_VERSION..=wire::PROTOCOL_VERSION).collect();
    assert_eq!(spoken, VERSIONS);
}

#[test]
fn a_source_of_each_released_version_moves_its_machine_here() {
    for version in VERSIONS {
        let recording = Recording::of(version);
        let machine = small_machine();
        let destination = destination(&loopback(), &machine);
        // The recorded source has let go of it before it said *complete*.
        machine.release_disks().unwrap();
        let address = destination.address().clone();
        let mut control = connect(&address);
        let mut channels = Vec::new();
        for (index, part) in split(&recording.control[0]).into_iter().enumerate() {
            match name(part) {
                // Each of these comes after an answer.
                Some("Hello") => drop(hear_greeting(&mut control)),
                Some("Go") => hear_until(&mut control, "Ready"),
                Some("Bye") => hear_until(&mut control, "Running"),
                _ => {}
            }
            control.write_all(part).unwrap_or_else(|error| panic!("part {index}: {error}"));
            if name(part) == Some("Hello") {
                hear_until(&mut control, "Accept");
                for bytes in &recording.channels {
                    let mut channel = connect(&address);
                    channel.write_all(bytes).unwrap();
                    channels.push(channel);
                }
                hear_until(&mut control, "ChannelsOpen");
            }
        }
        assert_eq!(destination.notes.outcome(), Outcome::Completed, "version {version}");
        let arrived = destination.arrival.machine.lock().unwrap().clone().unwrap();
        assert!(arrived.contents() == machine.contents(), "memory differs from version {version}");
        assert_eq!(*destination.arrival.ran.lock().unwrap(), Some(false), "it was paused");
    }
}

#[test]
fn a_machine_of_today_moves_to_a_destination_of_each_released_version() {
    for version in VERSIONS {
        let recording = Recording::of(version);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let played = thread::spawn(move || play_destination(&listener, &recording));
        let machine = small_machine();
        let address = Address::Tcp { host: "127.0.0.1".into(), port };
        let params = Params::default().channels(CHANNELS);
        let (handle, notes) = migrate(machine, &address, params);
        assert_eq!(notes.outcome(), Outcome::Completed, "version {version}");
        handle.join();
        played.join().unwrap();
    }
}

/// Answers as the recorded destination did, each time when what it answers has come.
fn play_destination(listener: &TcpListener, recording: &Recording) {
    let mut control = accept(listener);
    let mut channels = Vec::new();
    for part in split(&recording.control[1]) {
        match name(part) {
            None => drop(hear_greeting(&mut control)),
            Some("Accept") => hear_until(&mut control, "Hello"),
            Some("ChannelsOpen") => channels.extend((0..CHANNELS).map(|_| swallow(accept(listener)))),
            Some("Pong") => hear_until(&mut control, "Ping"),
            Some("Ready") => hear_until(&mut control, "Complete"),
            Some("Running") => hear_until(&mut control, "Go"),
            Some(other) => panic!("a destination that said {other}"),
        }
        control.write_all(part).unwrap();
    }
    hear_until(&mut control, "Bye");
    for channel in channels {
        channel.join().unwrap();
    }
}

/// A machine that stands still, so that what is sent of it is the same each time.
fn small_machine() -> Arc<Machine> {
    let machine = Machine::new(ram_of(PAGES), 10);
    machine.fill();
    machine
}

/// What went over the connections of a migration.
#[derive(Default)]
struct Recording {
    /// To the destination, and to the source.
    control: [Vec<u8>; 2],
    /// To the destination.
    channels: Vec<Vec<u8>>,
}

impl Recording {
    fn of(version: u16) -> Self {
        let folder: PathBuf =
            [env!("CARGO_MANIFEST_DIR"), "tests", "recorded", &format!("v{version}")].iter().collect();
        if !folder.exists() && std::env::var_os("WHIMBREL_BLESS").is_some() {
            record().keep(&folder);
        }
        let read = |name: String| {
            let path = folder.join(name);
            fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        Self {
            control: ["control.to-destination", "control.to-source"].map(|name| read(name.into())),
            channels: (0..CHANNELS).map(|index| read(format!("channel{index}.to-destination"))).collect(),
        }
    }

    fn keep(&self, folder: &PathBuf) {
        fs::create_dir_all(folder).unwrap();
        let write = |name: String, bytes: &[u8]| fs::write(folder.join(name), bytes).unwrap();
        write("control.to-destination".into(), &self.control[0]);
        write("control.to-source".into(), &self.control[1]);
        for (index, bytes) in self.channels.iter().enumerate() {
            write(format!("channel{index}.to-destination"), bytes);
        }
    }
}

/// Moves a machine between two sides of today, and notes every byte.
fn record() -> Recording {
    let machine = small_machine();
    let destination = destination(&loopback(), &machine);
    let there = destination.address().clone();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let between = thread::spawn(move || {
        (0..=CHANNELS).map(|_| carry(accept(&listener), connect(&there))).collect::<Vec<_>>()
    });
    let address = Address::Tcp { host: "127.0.0.1".into(), port };
    let params = Params::default().channels(CHANNELS);
    let (handle, notes) = migrate(machine, &address, params);
    assert_eq!(notes.outcome(), Outcome::Completed);
    handle.join();
    destination.handle.join();
    let connections = between.join().unwrap();
    let mut recording = Recording::default();
    for ways in connections {
        let [to_destination, to_source] = ways.map(|way| way.join().unwrap());
        if recording.control[0].is_empty() {
            recording.control = [to_destination, to_source];
        } else {
            recording.channels.push(to_destination);
        }
    }
    let number = |bytes: &Vec<u8>| Greeting::decode(bytes.first_chunk().unwrap()).unwrap().index;
    recording.channels.sort_by_key(number);
    recording
}

/// Passes bytes on both ways until the connection ends, and notes them: to the destination, to the source.
fn carry(source: TcpStream, destination: TcpStream) -> [JoinHandle<Vec<u8>>; 2] {
    let way = |mut from: TcpStream, mut to: TcpStream| {
        thread::spawn(move || {
            let (mut noted, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                noted.extend_from_slice(&buffer[..count]);
                if to.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Write);
            noted
        })
    };
    let other = (source.try_clone().unwrap(), destination.try_clone().unwrap());
    [way(source, destination), way(other.1, other.0)]
}

/// The greeting, then each frame.
fn split(stream: &[u8]) -> Vec<&[u8]> {
    let (greeting, mut rest) = stream.split_at(GREETING_BYTES);
    let mut parts = vec![greeting];
    while let Some(raw) = rest.first_chunk::<HEADER_BYTES>() {
        let length = HEADER_BYTES + FrameHeader::decode(raw).unwrap().length as usize;
        let (frame, behind) = rest.split_at(length);
        parts.push(frame);
        rest = behind;
    }
    parts
}

/// The name of the message; `None` for the greeting.
fn name(part: &[u8]) -> Option<&'static str> {
    let is_greeting = part.starts_with(&wire::greeting::MAGIC);
    (!is_greeting).then(|| Message::decode(&part[HEADER_BYTES..]).unwrap().name())
}

fn hear_greeting(stream: &mut TcpStream) -> Greeting {
    let mut bytes = [0; GREETING_BYTES];
    stream.read_exact(&mut bytes).unwrap();
    Greeting::decode(&bytes).unwrap()
}

/// Reads messages up to the one of this name.
fn hear_until(stream: &mut TcpStream, wanted: &str) {
    loop {
        let mut raw = [0; HEADER_BYTES];
        stream.read_exact(&mut raw).unwrap_or_else(|error| panic!("instead of {wanted}: {error}"));
        let mut body = vec![0; FrameHeader::decode(&raw).unwrap().length as usize];
        stream.read_exact(&mut body).unwrap();
        let message = Message::decode(&body).unwrap();
        if message.name() == wanted {
            return;
        }
        assert!(
            matches!(message, Message::Ping(_) | Message::Pong(_) | Message::Switchover | Message::Device(_)),
            "{message:?} instead of {wanted}"
        );
    }
}

fn connect(address: &Address) -> TcpStream {
    let Address::Tcp { host, port } = address else { panic!("not TCP") };
    prepared(TcpStream::connect((host.as_str(), *port)).unwrap())
}

fn accept(listener: &TcpListener) -> TcpStream {
    prepared(listener.accept().unwrap().0)
}

fn prepared(stream: TcpStream) -> TcpStream {
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

/// Reads a page channel to its end.
fn swallow(mut channel: TcpStream) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut bytes = vec![0; 1 << 16];
        while channel.read(&mut bytes).is_ok_and(|count| count > 0) {}
    })
}
