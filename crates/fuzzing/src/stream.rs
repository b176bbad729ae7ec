//! What a peer sends during a migration: control frames, and the frames of page channels.

use wire::{
    Ack, Batch, Came, Complete, Encoding, FrameHeader, FrameKind, GREETING_BYTES, Greeting, HEADER_BYTES,
    Message, Offer, Packing, PageCounts, Probe, Probed, Refuse, Request, Role, RoundEnd, Run, SessionId,
};

/// Pages of the blocks of the machine that receives. Others do not exist.
fn block_pages(block: u16) -> Option<u64> {
    [1 << 18, 1, u64::MAX].get(usize::from(block)).copied()
}

/// A control frame: header, then body. The body is also decoded by itself, since bytes that are changed at random never
/// have the right checksum.
pub(crate) fn control(bytes: &[u8]) {
    let body = behind_header(bytes);
    let Ok(message) = Message::decode(body) else { return };
    let frame = message.encode(7).expect("what could be received can be sent");
    let again = Message::decode(&frame[HEADER_BYTES..]);
    // CBOR has several spellings of one value: the value must survive, not the bytes.
    assert_eq!(again.as_ref(), Ok(&message));
    assert!(!message.name().is_empty());
    if let Message::Hello(hello) = &message {
        let _ = hello.mismatches(&[], &[]);
    }
    match message {
        Message::Probe(probe) => {
            assert!(probe.bytes() <= wire::MAX_PROBE_BYTES && probe.time() <= wire::MAX_PROBE_TIME);
        }
        Message::Probed(probed) => is_a_speed(&probed, wire::MAX_PROBE_BYTES),
        Message::Missing(bits) => {
            let words = bits.words().unwrap_or_default();
            assert!(words.len() <= bits.bits.len().div_ceil(8), "{} words", words.len());
        }
        _ => {}
    }
}

/// What a destination says that came of a probe: five numbers, the last of which is what was sent.
pub(crate) fn probe(bytes: &[u8]) {
    let (numbers, _) = bytes.as_chunks::<8>();
    let [whole, whole_time, late, late_time, sent, ..] = numbers else { return };
    let came = |bytes: &[u8; 8], nanoseconds: &[u8; 8]| Came {
        bytes: u64::from_le_bytes(*bytes),
        nanoseconds: u64::from_le_bytes(*nanoseconds),
    };
    let probed = Probed { whole: came(whole, whole_time), late: came(late, late_time) };
    is_a_speed(&probed, u64::from_le_bytes(*sent));
}

fn is_a_speed(probed: &Probed, sent: u64) {
    let Some(speed) = probed.bytes_per_second(sent) else { return };
    assert!(speed > 0 && probed.whole.bytes <= sent, "{speed} bytes/s of {probed:?}");
    // No more than came can come in the time that it took.
    let most = [probed.whole, probed.late].map(|came| u128::from(came.bytes) * 1_000_000_000);
    let by = [probed.whole, probed.late].map(|came| u128::from(speed) * u128::from(came.nanoseconds));
    assert!(by[0] <= most[0] || by[1] <= most[1], "{speed} bytes/s of {probed:?}");
}

/// The first bytes of a connection.
pub(crate) fn greeting(bytes: &[u8]) {
    let Some((bytes, _)) = bytes.split_first_chunk::<GREETING_BYTES>() else { return };
    let Ok(greeting) = Greeting::decode(bytes) else { return };
    let again = Greeting::decode(&greeting.encode());
    // Names that are no text are shown as some.
    assert_eq!(
        again.map(|again| (again.role, again.index, again.session)),
        Ok((greeting.role, greeting.index, greeting.session))
    );
    assert!(!greeting.offer.release.chars().any(char::is_control));
    let ours = Offer::of("this");
    match (ours.with_source(&greeting.offer), greeting.offer.with_destination(&ours)) {
        (Ok(here), Ok(there)) => assert_eq!(here, there),
        (Err(here), Err(there)) => assert!(!here.to_string().is_empty() && !there.to_string().is_empty()),
        (here, there) => panic!("one side agrees: {here:?}, {there:?}"),
    }
}

/// A frame of a page channel, its body decoded as each kind in turn.
pub(crate) fn pages(bytes: &[u8]) {
    let body = behind_header(bytes);
    let mut batch = Batch::default();
    if batch.decode_from(body, block_pages).is_ok() {
        within_limits(&batch);
        let mut frame = Vec::new();
        batch.encode_into(0, &mut frame);
        assert_eq!(&frame[HEADER_BYTES..], body, "a table has one spelling");
    }
    if let Ok(request) = Request::decode(body, block_pages) {
        assert!((1..=wire::MAX_REQUESTED_PAGES).contains(&request.pages), "{request:?}");
        assert_eq!(&request.encode(3)[HEADER_BYTES..], body);
    }
    if let Ok(end) = RoundEnd::decode(body) {
        assert_eq!(&end.encode(3)[HEADER_BYTES..], body);
    }
}

fn within_limits(batch: &Batch) {
    assert!(batch.runs.len() <= wire::MAX_RUNS && batch.data_bytes() <= wire::MAX_BATCH_BYTES);
    assert!(batch.sent_bytes() <= batch.data_bytes());
    assert!(!batch.is_encoded() || batch.data_bytes() <= wire::MAX_HELD_BYTES);
    for run in &batch.runs {
        let end = run.first_page.checked_add(run.pages.into());
        assert!(end.is_some() && end <= block_pages(batch.block), "{run:?} is outside of its block");
    }
}

/// What follows a header; the header itself must be refused or bounded.
fn behind_header(bytes: &[u8]) -> &[u8] {
    let Some((raw, body)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return bytes };
    if let Ok(header) = FrameHeader::decode(raw) {
        assert!(header.length <= header.kind.max_length());
        // A receiver reads exactly as many bytes as the header says.
        if let Some(body) = body.get(..header.length as usize)
            && header.check(raw, body, header.sequence).is_ok()
        {
            assert_eq!(FrameHeader::encode(header.kind, header.sequence, body), *raw);
        }
    }
    body
}

pub(crate) fn control_seeds() -> Vec<Vec<u8>> {
    let messages = [
        Message::Refuse(Refuse { reasons: vec!["Memory differs".into()] }),
        Message::Ping(u64::MAX),
        Message::Switchover,
        Message::Device(state::DeviceState {
            id: "disk0".into(),
            kind: "virtio-blk".into(),
            version: 1,
            body: vec![0xa0],
        }),
        Message::Complete(Complete {
            rounds: 2,
            pages: PageCounts { raw: 1, zero: 2, ..PageCounts::default() },
            devices: 3,
            run: true,
            digest: Some(vec![1, u64::MAX]),
            to_come: None,
        }),
        Message::Ready(Ack { nanoseconds: 1 }),
        Message::Go,
        Message::NotRunning { reason: "disk in use".into() },
        Message::Ask { session: SessionId([7; 16]) },
        Message::Probe(Probe::FULL),
        Message::Probed(Probed {
            whole: Came { bytes: 1 << 20, nanoseconds: 900_000_000 },
            late: Came { bytes: 1 << 19, nanoseconds: 1 },
        }),
    ];
    messages.iter().filter_map(|message| message.encode(0).ok()).collect()
}

pub(crate) fn probe_seeds() -> Vec<Vec<u8>> {
    let numbers = [60_000_000_u64, 900_000_000, 50_000_000, 400_000_000, 100_000_000];
    vec![numbers.iter().flat_map(|number| number.to_le_bytes()).collect(), vec![0xff; 40], vec![0; 40]]
}

pub(crate) fn greeting_seeds() -> Vec<Vec<u8>> {
    let greeting = |role, index, session| Greeting { offer: Offer::of("0.1.0"), role, index, session };
    [greeting(Role::Control, 0, SessionId::NONE), greeting(Role::Pages, 63, SessionId([1; 16]))]
        .map(|greeting| greeting.encode().to_vec())
        .into()
}

pub(crate) fn pages_seeds() -> Vec<Vec<u8>> {
    let run = |first_page, pages, encoding| Run { first_page, pages, encoding };
    let runs =
        vec![run(0, 1, Encoding::Raw), run(9, 2048 - 1, Encoding::Raw), run(3000, 1 << 17, Encoding::Zero)];
    let mut batch = Vec::new();
    Batch { round: 1, block: 0, runs, ..Batch::default() }.encode_into(0, &mut batch);
    let end = RoundEnd {
        round: 1,
        last: true,
        pages: PageCounts { raw: 2048, zero: u64::MAX, ..PageCounts::default() },
    };
    let mut too_long = FrameHeader::encode(FrameKind::Pages, 0, &[]).to_vec();
    too_long[4..8].fill(0xff);
    let (mut deltas, mut packed) = (Vec::new(), Vec::new());
    let of = |encoding| vec![run(5, 3, encoding), run(9, 1, Encoding::Zero)];
    let with_deltas = Batch { runs: of(Encoding::Delta { bytes: 33 }), sum: Some(1), ..Batch::default() };
    with_deltas.encode_into(0, &mut deltas);
    let with_packing =
        Batch { runs: of(Encoding::Raw), packed: Some((Packing::Zstd, 400)), ..Batch::default() };
    with_packing.encode_into(0, &mut packed);
    let request = Request { block: 0, first_page: 512, pages: 512 }.encode(2).to_vec();
    vec![
        batch,
        deltas,
        packed,
        end.encode(1),
        request,
        too_long,
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
    ]
}
