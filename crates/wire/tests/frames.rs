//! The bytes of one frame of each kind, as files. As long as `PROTOCOL_VERSION` stays, they stay.
//!
//! For a message that is new, `NEW_FRAMES=1 cargo test -p whimbrel-wire --test frames` writes the file that is missing.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

use std::{fmt::Write, fs, path::PathBuf};

use state::DeviceState;
use whimbrel_wire::{
    Accept, Ack, Batch, BlockInfo, Came, Complete, DeviceInfo, Digest, Encoding, Features, Forward,
    FrameHeader, FrameKind, GREETING_BYTES, Greeting, HEADER_BYTES, Hello, Message, Offer, PROTOCOL_VERSION,
    Packing, PageCounts, Probe, Probed, Refuse, Role, RoundEnd, Run, SessionId, StateVersions,
};

const SESSION: SessionId = SessionId([0xA0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xAF]);

fn device() -> DeviceState {
    DeviceState {
        id: "rtc0".into(),
        kind: "rtc".into(),
        version: 2,
        body: vec![0xA1, 0x61, 0x78, 0x18, 0x2A],
    }
}

fn hello() -> Hello {
    Hello {
        session: SESSION,
        channels: 4,
        page_bytes: 4096,
        digest: Digest::Full,
        blocks: vec![
            BlockInfo { name: "ram.low".into(), guest_address: 0, bytes: 3 << 30 },
            BlockInfo { name: "ram.high".into(), guest_address: 4 << 30, bytes: 1 << 30 },
        ],
        devices: vec![DeviceInfo::new("rtc0", "rtc", 1..=2)],
        machine: device(),
        postcopy: false,
    }
}

fn complete() -> Complete {
    Complete {
        rounds: 5,
        pages: PageCounts { raw: 1 << 33, zero: 70_000, ..PageCounts::default() },
        devices: 1,
        run: true,
        digest: Some(vec![u64::MAX, 1]),
        to_come: None,
    }
}

/// One of each message, in the order of the enum.
fn messages() -> Vec<Message> {
    vec![
        Message::Hello(hello()),
        Message::Accept(Accept {
            channels: 4,
            reads: vec![StateVersions { kind: "rtc".into(), oldest: 1, newest: 3 }],
        }),
        Message::Refuse(Refuse { reasons: vec!["Memory differs".into(), "Pages differ".into()] }),
        Message::ChannelsOpen,
        Message::Ping(1),
        Message::Pong(u64::MAX),
        Message::Switchover,
        Message::Device(device()),
        Message::Complete(complete()),
        Message::Ready(Ack { nanoseconds: 1_500_000 }),
        Message::Go,
        Message::Running(Ack { nanoseconds: 250_000 }),
        Message::NotRunning { reason: "no tap".into() },
        Message::UnknownSession,
        Message::Ask { session: SESSION },
        Message::Forward(Forward::new("net0", [vec![0xAA; 3], vec![0xBB; 2]])),
        Message::Bye,
        Message::Abort { reason: "cancelled".into() },
        Message::Probe(Probe::FULL),
        Message::Probed(Probed {
            whole: Came { bytes: 1 << 28, nanoseconds: 250_000_000 },
            late: Came { bytes: 1 << 27, nanoseconds: 100_000_000 },
        }),
    ]
}

fn greeting() -> Greeting {
    let features = Features::from_bits(1 << 62 | 5);
    let offer = Offer { newest: 1, oldest: 1, features, release: "0.1.0".into() };
    Greeting { offer, role: Role::Pages, index: 3, session: SESSION }
}

fn batch() -> Batch {
    let run = |first_page, pages, encoding| Run { first_page, pages, encoding };
    let runs = vec![run(0, 3, Encoding::Raw), run(1 << 40, 65_536, Encoding::Zero), run(9, 1, Encoding::Raw)];
    Batch { round: 2, block: 1, runs, ..Batch::default() }
}

/// With pages as differences, packed.
fn encoded_batch() -> Batch {
    let run = |first_page, pages, encoding| Run { first_page, pages, encoding };
    let runs = vec![
        run(5, 1, Encoding::Delta { bytes: 11 }),
        run(6, 1, Encoding::Delta { bytes: 2048 }),
        run(7, 2, Encoding::Raw),
        run(9, 3, Encoding::Zero),
    ];
    Batch { round: 3, block: 1, runs, packed: Some((Packing::Zstd, 3000)), ..Batch::default() }
}

fn frames() -> Vec<(String, Vec<u8>)> {
    let named = |name: &str, frame: Vec<u8>| (name.to_lowercase(), frame);
    let mut frames: Vec<_> =
        messages().iter().map(|message| named(message.name(), message.encode(7).unwrap())).collect();
    let mut pages = Vec::new();
    batch().encode_into(3, &mut pages);
    frames.push(named("pages", pages));
    let mut encoded = Vec::new();
    encoded_batch().encode_into(5, &mut encoded);
    frames.push(named("pages-encoded", encoded));
    let end = Message::Forward(Forward::end("net0"));
    frames.push(named("forward-end", end.encode(8).unwrap()));
    frames.push(named("greeting", greeting().encode().to_vec()));
    let end = RoundEnd {
        round: 2,
        last: true,
        pages: PageCounts { raw: 4, zero: 65_536, ..PageCounts::default() },
    };
    frames.push(named("round-end", end.encode(4)));
    frames
}

fn file(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "frames", &format!("v{PROTOCOL_VERSION}"), &format!("{name}.hex")]
        .iter()
        .collect()
}

/// Sixteen bytes a line; the first line is the header.
fn hex(bytes: &[u8]) -> String {
    bytes.chunks(16).fold(String::new(), |mut text, line| {
        let digits: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(text, "{}", digits.join(" ")).unwrap();
        text
    })
}

#[test]
fn every_frame_has_the_bytes_that_it_always_had() {
    for (name, frame) in frames() {
        let path = file(&name);
        let found = hex(&frame);
        if !path.exists() && std::env::var_os("NEW_FRAMES").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &found).unwrap();
        }
        let known = fs::read_to_string(&path).unwrap_or_default();
        let path = path.display();
        assert!(
            known == found,
            "{path} says\n{known}and the frame is now\n{found}. Peers of this version would not understand it: go back, \
             or raise PROTOCOL_VERSION and keep the old files"
        );
    }
}

#[test]
fn every_frame_that_was_ever_sent_is_understood() {
    for (name, message) in messages().into_iter().map(|message| (message.name().to_lowercase(), message)) {
        let (header, body) = read(&name);
        assert_eq!((header.kind, header.sequence), (FrameKind::Control, 7), "{name}");
        assert_eq!(Message::decode(&body), Ok(message), "{name}");
    }
    assert_eq!(Message::decode(&read("forward-end").1), Ok(Message::Forward(Forward::end("net0"))));
    let first: [u8; GREETING_BYTES] = read_bytes("greeting").try_into().unwrap();
    assert_eq!(Greeting::decode(&first), Ok(greeting()));
    let mut decoded = Batch::default();
    decoded.decode_from(&read("pages").1, |block| (block == 1).then_some(1 << 41)).unwrap();
    assert_eq!(decoded, batch());
    decoded.decode_from(&read("pages-encoded").1, |block| (block == 1).then_some(1 << 41)).unwrap();
    assert_eq!(decoded, encoded_batch());
}

fn read_bytes(name: &str) -> Vec<u8> {
    let path = file(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

fn read(name: &str) -> (FrameHeader, Vec<u8>) {
    let bytes = read_bytes(name);
    let (raw, body) = bytes.split_first_chunk::<HEADER_BYTES>().unwrap();
    let header = FrameHeader::decode(raw).unwrap();
    header.check(raw, body, header.sequence).unwrap();
    (header, body.to_vec())
}
