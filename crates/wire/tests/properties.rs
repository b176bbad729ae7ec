//! What holds for every value and for all bytes.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

use proptest::{collection::vec, option, prelude::*};
use state::DeviceState;
use whimbrel_wire::{
    Accept, Ack, Batch, BlockInfo, Complete, DeviceInfo, Digest, Encoding, Features, FrameHeader, FrameKind,
    GREETING_BYTES, Greeting, HEADER_BYTES, Hello, MAX_BATCH_BYTES, MAX_DELTA_BYTES, MAX_HELD_BYTES,
    MAX_RUNS, Message, Offer, PAGE_BYTES, Packing, PageCounts, Refuse, Role, RoundEnd, Run, SessionId,
    StateVersions,
};

/// Pages of the block that batches are for.
const BLOCK_PAGES: u64 = 1 << 41;

fn session() -> impl Strategy<Value = SessionId> {
    any::<[u8; 16]>().prop_map(SessionId)
}

fn device() -> impl Strategy<Value = DeviceState> {
    (".{0,12}", ".{0,12}", any::<u32>(), vec(any::<u8>(), 0..200))
        .prop_map(|(id, kind, version, body)| DeviceState { id, kind, version, body })
}

fn hello() -> impl Strategy<Value = Hello> {
    let block = (".{0,12}", any::<u64>(), any::<u64>()).prop_map(|(name, guest_address, bytes)| BlockInfo {
        name,
        guest_address,
        bytes,
    });
    let info = (".{0,12}", ".{0,12}", any::<u32>(), any::<u32>())
        .prop_map(|(id, kind, version, oldest)| DeviceInfo::new(id, kind, oldest..=version));
    let digest = proptest::sample::select(vec![Digest::Off, Digest::Transfer, Digest::Full]);
    let numbers = (any::<u16>(), any::<u32>(), digest);
    (numbers, session(), vec(block, 0..4), vec(info, 0..4), device()).prop_map(
        |((channels, page_bytes, digest), session, blocks, devices, machine)| Hello {
            session,
            channels,
            page_bytes,
            digest,
            blocks,
            devices,
            machine,
            postcopy: false,
        },
    )
}

fn greeting() -> impl Strategy<Value = Greeting> {
    let offer = (any::<u16>(), any::<u16>(), any::<u64>(), "[ -~]{0,20}").prop_map(
        |(newest, oldest, features, release)| Offer {
            newest,
            oldest,
            features: Features::from_bits(features),
            release,
        },
    );
    let role = proptest::sample::select(vec![Role::Control, Role::Pages, Role::Ask]);
    (offer, role, any::<u16>(), session()).prop_map(|(offer, role, index, session)| Greeting {
        offer,
        role,
        index,
        session,
    })
}

fn complete() -> impl Strategy<Value = Complete> {
    let numbers = (any::<u32>(), any::<u64>(), any::<u64>(), any::<u32>(), any::<bool>());
    (numbers, proptest::option::of(vec(any::<u64>(), 0..20))).prop_map(
        |((rounds, raw, zero, devices, run), digest)| Complete {
            rounds,
            pages: PageCounts { raw, zero, ..PageCounts::default() },
            devices,
            run,
            digest,
            to_come: None,
        },
    )
}

fn message() -> impl Strategy<Value = Message> {
    let ack = || any::<u64>().prop_map(|nanoseconds| Ack { nanoseconds });
    let versions = (".{0,12}", any::<u32>(), any::<u32>()).prop_map(|(kind, oldest, newest)| StateVersions {
        kind,
        oldest,
        newest,
    });
    let accept = (any::<u16>(), vec(versions, 0..4)).prop_map(|(channels, reads)| Accept { channels, reads });
    prop_oneof![
        hello().prop_map(Message::Hello),
        accept.prop_map(Message::Accept),
        vec(".{0,40}", 0..4).prop_map(|reasons| Message::Refuse(Refuse { reasons })),
        any::<u64>().prop_map(Message::Ping),
        any::<u64>().prop_map(Message::Pong),
        Just(Message::Switchover),
        device().prop_map(Message::Device),
        complete().prop_map(Message::Complete),
        ack().prop_map(Message::Ready),
        ack().prop_map(Message::Running),
        ".{0,40}".prop_map(|reason| Message::NotRunning { reason }),
        ".{0,40}".prop_map(|reason| Message::Abort { reason }),
        session().prop_map(|session| Message::Ask { session }),
        Just(Message::ChannelsOpen),
        Just(Message::Go),
        Just(Message::UnknownSession),
        Just(Message::Bye),
    ]
}

fn batch() -> impl Strategy<Value = Batch> {
    let raw = (0..BLOCK_PAGES - 4, 1..5_u32).prop_map(|(first_page, pages)| Run {
        first_page,
        pages,
        encoding: Encoding::Raw,
    });
    let zero = (0..BLOCK_PAGES - u64::from(u32::MAX), 1..=u32::MAX).prop_map(|(first_page, pages)| Run {
        first_page,
        pages,
        encoding: Encoding::Zero,
    });
    let runs = vec(prop_oneof![raw, zero], 0..MAX_RUNS);
    let plain = (any::<u32>(), any::<u16>(), runs, any::<Option<u64>>())
        .prop_map(|(round, block, runs, sum)| Batch { round, block, runs, sum, packed: None });
    prop_oneof![plain, encoded_batch()]
}

/// With differences, packed, or both.
fn encoded_batch() -> impl Strategy<Value = Batch> {
    let run = (0..BLOCK_PAGES - 9, 1..9_u32, 0..=2_u8, any::<u32>()).prop_map(
        |(first_page, pages, kind, bytes)| {
            let encoding = match kind {
                0 => Encoding::Raw,
                1 => Encoding::Zero,
                _ => Encoding::Delta { bytes: pages + bytes % (pages * (MAX_DELTA_BYTES as u32 - 1)) },
            };
            Run { first_page, pages, encoding }
        },
    );
    let packing = prop_oneof![Just(Packing::Lz4), Just(Packing::Zstd)];
    let packed = option::of((packing, any::<u32>()));
    let all = (any::<u32>(), any::<u16>(), vec(run, 1..MAX_HELD_BYTES as usize / (9 * PAGE_BYTES)), packed);
    all.prop_map(|(round, block, runs, packed)| {
        let mut batch = Batch { round, block, runs, ..Batch::default() };
        let most = batch.data_bytes().saturating_sub(1) as u32;
        batch.packed = packed.filter(|_| most > 0).map(|(packing, bytes)| (packing, 1 + bytes % most));
        batch
    })
}

fn decode_batch(table: &[u8]) -> Option<Batch> {
    let mut batch = Batch::default();
    batch.decode_from(table, |_| Some(BLOCK_PAGES)).is_ok().then_some(batch)
}

fn table_of(batch: &Batch) -> Vec<u8> {
    let mut frame = Vec::new();
    batch.encode_into(0, &mut frame);
    frame.split_off(HEADER_BYTES)
}

proptest! {
    // A failure that was found is written down as a test of its own, not kept beside them.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_message_comes_back_as_it_was(message in message(), sequence: u32) {
        let frame = message.encode(sequence).unwrap();
        let (raw, body) = frame.split_first_chunk::<HEADER_BYTES>().unwrap();
        FrameHeader::decode(raw).unwrap().check(raw, body, sequence).unwrap();
        prop_assert_eq!(Message::decode(body), Ok(message));
    }

    #[test]
    fn any_batch_comes_back_as_it_was(batch in batch(), sequence: u32) {
        let mut frame = vec![1; 5];
        batch.encode_into(sequence, &mut frame);
        let (raw, table) = frame.split_first_chunk::<HEADER_BYTES>().unwrap();
        FrameHeader::decode(raw).unwrap().check(raw, table, sequence).unwrap();
        prop_assert_eq!(decode_batch(table), Some(batch));
    }

    #[test]
    fn any_round_end_and_greeting_come_back_as_they_were(
        round: u32, last: bool, raw: u64, zero: u64, delta: u64, greeting in greeting(),
    ) {
        let end = RoundEnd { round, last, pages: PageCounts { raw, zero, delta } };
        prop_assert_eq!(RoundEnd::decode(&end.encode(1)[HEADER_BYTES..]), Ok(end));
        prop_assert_eq!(Greeting::decode(&greeting.encode()), Ok(greeting));
    }

    #[test]
    fn pages_pushed_into_a_batch_are_the_pages_in_it(
        pages in proptest::collection::btree_map(0..3000_u64, any::<bool>(), 0..400),
    ) {
        let mut batch = Batch::default();
        for (&page, &zero) in &pages {
            batch.push(page, if zero { Encoding::Zero } else { Encoding::Raw });
        }
        let found = batch.runs.iter().flat_map(|run| {
            (0..u64::from(run.pages)).map(|index| (run.first_page + index, run.encoding == Encoding::Zero))
        });
        prop_assert_eq!(found.collect::<Vec<_>>(), pages.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in vec(any::<u8>(), 0..300)) {
        let _ = Message::decode(&bytes);
        // The other formats have one spelling for each value.
        if let Ok(end) = RoundEnd::decode(&bytes) {
            prop_assert_eq!(&end.encode(0)[HEADER_BYTES..], &bytes);
        }
        if let Some((greeting, _)) = bytes.split_first_chunk::<GREETING_BYTES>() {
            let _ = Greeting::decode(greeting);
        }
        if let Some(batch) = decode_batch(&bytes) {
            prop_assert_eq!(&table_of(&batch), &bytes);
        }
        if let Some((raw, _)) = bytes.split_first_chunk::<HEADER_BYTES>()
            && let Ok(header) = FrameHeader::decode(raw)
        {
            prop_assert!(header.length <= header.kind.max_length());
        }
    }

    #[test]
    fn a_message_that_was_changed_is_refused_or_is_another_message(
        message in message(), at: prop::sample::Index, bit in 0..8_u32,
    ) {
        let mut body = message.encode(0).unwrap().split_off(HEADER_BYTES);
        let at = at.index(body.len());
        body[at] ^= 1 << bit;
        if let Ok(other) = Message::decode(&body) {
            let again = other.encode(0).unwrap();
            prop_assert_eq!(Message::decode(&again[HEADER_BYTES..]), Ok(other));
        }
    }

    #[test]
    fn a_message_that_was_cut_off_is_refused(message in message(), at: prop::sample::Index) {
        let body = message.encode(0).unwrap().split_off(HEADER_BYTES);
        let cut = &body[..at.index(body.len())];
        prop_assert!(Message::decode(cut).is_err());
    }

    #[test]
    fn a_table_that_was_changed_stays_within_its_limits(batch in batch(), at: prop::sample::Index, byte: u8) {
        let mut table = table_of(&batch);
        let at = at.index(table.len());
        table[at] = byte;
        if let Some(other) = decode_batch(&table) {
            prop_assert!(other.runs.len() <= MAX_RUNS && other.data_bytes() <= MAX_BATCH_BYTES && other.sent_bytes() <= MAX_BATCH_BYTES);
            for run in &other.runs {
                let end = run.first_page.checked_add(run.pages.into());
                prop_assert!(run.pages > 0 && end.is_some_and(|end| end <= BLOCK_PAGES), "{:?}", run);
            }
        }
    }

    #[test]
    fn hellos_of_any_machine_are_compared(theirs in hello(), ours in hello()) {
        let fits = theirs.blocks == ours.blocks && theirs.devices == ours.devices;
        let reasons = theirs.mismatches(&ours.blocks, &ours.devices);
        prop_assert!(fits || !reasons.is_empty());
    }
}

#[test]
fn a_table_cut_anywhere_but_between_two_runs_is_refused() {
    let runs = (0..5).map(|index| Run { first_page: index * 10, pages: 3, encoding: Encoding::Raw });
    let batch = Batch { round: 1, block: 0, runs: runs.collect(), ..Batch::default() };
    let table = table_of(&batch);
    for cut in 0..table.len() {
        let runs = decode_batch(&table[..cut]).map(|batch| batch.runs.len());
        let between = cut >= 8 && (cut - 8) % 20 == 0;
        assert_eq!(runs, between.then(|| (cut - 8) / 20), "cut at {cut}");
    }
}

#[test]
fn fixed_parts_of_any_other_size_are_refused() {
    let end =
        RoundEnd { round: 1, last: false, pages: PageCounts { raw: 2, zero: 3, ..PageCounts::default() } }
            .encode(0);
    for length in 0..64 {
        let resized = |frame: &[u8]| {
            let mut body = frame[HEADER_BYTES..].to_vec();
            body.resize(length, 0);
            body
        };
        assert_eq!(RoundEnd::decode(&resized(&end)).is_ok(), length == end.len() - HEADER_BYTES);
    }
}

/// A CBOR head that says a number: major type (0 to 7) and an argument of eight bytes.
fn head(major: u8, argument: u64) -> Vec<u8> {
    let mut bytes = vec![major << 5 | 27];
    bytes.extend_from_slice(&argument.to_be_bytes());
    bytes
}

fn text(value: &str) -> Vec<u8> {
    [&[3 << 5 | value.len() as u8][..], value.as_bytes()].concat()
}

/// Most memory that this process ever mapped, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmPeak")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_length_that_is_only_claimed_takes_no_memory() {
    let before = peak();
    let huge = [1 << 32, 1 << 60, u64::MAX];
    let places: [(&str, &str); 6] = [
        ("Refuse", "reasons"),
        ("Complete", "digest"),
        ("Device", "body"),
        ("Device", "id"),
        ("Hello", "blocks"),
        ("Abort", "reason"),
    ];
    for (message, field) in places {
        for major in 2..6 {
            for argument in huge {
                let body =
                    [&[5 << 5 | 1][..], &text(message), &[5 << 5 | 1], &text(field), &head(major, argument)];
                assert!(Message::decode(&body.concat()).is_err(), "{message}.{field} of {argument}");
                let body = [&[5 << 5 | 1][..], &text(message), &head(major, argument)];
                assert!(Message::decode(&body.concat()).is_err(), "{message} of {argument}");
            }
        }
    }
    let grown = (peak() - before) >> 10;
    assert!(grown < 64, "{grown} MiB were taken for nothing");
}

#[test]
fn nesting_without_end_is_refused() {
    for byte in [0x81, 0xA1, 0x9F, 0xBF, 0xC1] {
        assert!(Message::decode(&[byte; 100_000]).is_err());
    }
}

#[test]
fn a_device_that_is_named_twice_is_refused_before_a_page_moves() {
    let info = DeviceInfo::new("rtc0", "rtc", 1..=1);
    let machine = DeviceState { id: "machine".into(), kind: "machine".into(), version: 1, body: Vec::new() };
    let hello = Hello {
        session: SessionId([1; 16]),
        channels: 1,
        page_bytes: 4096,
        digest: Digest::Off,
        blocks: Vec::new(),
        devices: vec![info.clone(), info.clone()],
        machine,
        postcopy: false,
    };
    assert_eq!(hello.mismatches(&[], &[info]).len(), 1);
}

#[test]
fn each_kind_of_frame_has_its_own_cap() {
    for kind in [FrameKind::Control, FrameKind::Pages, FrameKind::RoundEnd] {
        let mut raw = FrameHeader::encode(kind, 0, &[]);
        raw[4..8].copy_from_slice(&kind.max_length().to_le_bytes());
        assert!(FrameHeader::decode(&raw).is_ok());
        raw[4..8].copy_from_slice(&(kind.max_length() + 1).to_le_bytes());
        assert!(FrameHeader::decode(&raw).is_err());
    }
}

#[test]
fn a_flag_that_does_not_exist_is_refused() {
    let mut raw = FrameHeader::encode(FrameKind::Control, 0, &[]);
    raw[3] = 1;
    assert!(FrameHeader::decode(&raw).is_err());
    let mut end =
        RoundEnd { round: 1, last: false, pages: PageCounts { raw: 2, zero: 3, ..PageCounts::default() } }
            .encode(0);
    end[HEADER_BYTES + 4] = 2;
    assert!(RoundEnd::decode(&end[HEADER_BYTES..]).is_err());
}

#[test]
fn behind_the_handshake_a_message_with_a_field_too_many_is_refused() {
    let field = |name: &str, value: &[u8]| [&text(name)[..], value].concat();
    let map = |pairs: u8| [5 << 5 | pairs];
    let good = [&map(1)[..], &text("Ready"), &map(1), &field("nanoseconds", &[3])].concat();
    assert_eq!(Message::decode(&good), Ok(Message::Ready(Ack { nanoseconds: 3 })));
    let more = [&map(1)[..], &text("Ready"), &map(2), &field("nanoseconds", &[3]), &field("more", &[1])];
    assert!(Message::decode(&more.concat()).is_err());
}
