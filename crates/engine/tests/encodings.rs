//! Pages that are encoded arrive as they were, whatever else is on.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod machine;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use migration::{Encodings, Params, Postcopy};
use whimbrel_engine::source;
use wire::{Digest, Features, Offer, Packing};

use machine::{
    Machine, PAGES, ram,
    travel::{assert_arrived_whole, destination, destination_as, loopback, migrate},
};

const LZ4: Encodings = Encodings {
    packing: Some(Packing::Lz4),
    zstd_level: 1,
    deltas: false,
    auto_packing: false,
    auto_deltas: false,
    processors: 2,
    cache_bytes: 0,
};
const ZSTD: Encodings = Encodings { packing: Some(Packing::Zstd), ..LZ4 };
const DELTAS: Encodings = Encodings { packing: None, deltas: true, cache_bytes: 16 << 20, ..LZ4 };
const ALL: Encodings = Encodings { packing: Some(Packing::Zstd), ..DELTAS };
const AUTO: Encodings =
    Encodings { packing: None, auto_packing: true, auto_deltas: true, cache_bytes: 16 << 20, ..LZ4 };
/// Room for a few of the pages that are dirtied.
const SMALL: Encodings = Encodings { cache_bytes: 40 * 4096, ..DELTAS };

/// A machine that changes a word of each of 500 pages again and again.
fn busy() -> Arc<Machine> {
    let machine = Machine::new(ram(), 0);
    machine.fill();
    machine.rest.store(100, Ordering::SeqCst);
    machine.run(500);
    machine
}

/// Moves it, after `rounds` rounds at least.
fn moved(params: Params, rounds: usize) -> source::Snapshot {
    let machine = busy();
    let destination = destination(&loopback(), &machine);
    // What is sent encoded is little: what keeps rounds coming is that no downtime is short enough.
    let (handle, notes) =
        migrate(machine.clone(), destination.address(), params.downtime_limit(Duration::ZERO));
    while handle.snapshot().statistics.rounds.len() < rounds && handle.snapshot().status.is_under_way() {
        std::thread::yield_now();
    }
    handle.set_live(0, Duration::from_millis(300), 0);
    assert_arrived_whole(&machine, &destination, &notes);
    handle.snapshot()
}

#[test]
fn pages_arrive_whole_in_every_encoding_over_any_number_of_channels() {
    for encodings in [LZ4, ZSTD, DELTAS, ALL, SMALL] {
        for (channels, digest) in [(1, Digest::Off), (4, Digest::Full), (64, Digest::Transfer)] {
            let params = Params::default().channels(channels).digest(digest).encodings(encodings);
            let snapshot = moved(params, 6);
            let (encoded, pages) = (snapshot.encoded, snapshot.pages);
            assert_eq!(encoded.encodings, encodings);
            assert_eq!(pages.delta, encoded.deltas);
            if encodings.deltas {
                // With little room, and on a host that is busy, few.
                assert!(encoded.deltas > if encodings == SMALL { 0 } else { 100 }, "{encoded:?}");
                assert!(encoded.delta_bytes < encoded.deltas * 100, "{encoded:?}");
            }
            if encodings.packing.is_some() {
                assert!(encoded.packed_bytes * 4 < encoded.plain_bytes, "{encoded:?}");
                assert!(
                    snapshot.sent_bytes < PAGES / 2 * 4096 / 2,
                    "{} bytes were sent",
                    snapshot.sent_bytes
                );
            }
        }
    }
}

#[test]
fn what_there_is_no_room_to_keep_goes_whole() {
    let encoded = moved(Params::default().channels(2).encodings(SMALL), 6).encoded;
    assert!(encoded.deltas > 0 && encoded.missing > encoded.deltas, "{encoded:?}");
}

#[test]
fn a_bandwidth_limit_counts_what_is_sent() {
    let began = std::time::Instant::now();
    // 16 MiB of pages, which take 40 s at this rate as they are.
    let snapshot = moved(Params::default().max_bandwidth(400_000).encodings(ZSTD), 0);
    assert!(snapshot.sent_bytes < 2_000_000, "{} bytes", snapshot.sent_bytes);
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}

#[test]
fn channels_that_choose_pack_and_compare_where_the_wire_is_slow() {
    let snapshot = moved(Params::default().channels(2).max_bandwidth(4_000_000).encodings(AUTO), 12);
    let encoded = snapshot.encoded;
    assert!(encoded.packed_pages > 100 && encoded.deltas > 100, "{encoded:?}");
    assert!(snapshot.sent_bytes < PAGES / 2 * 4096, "{} bytes", snapshot.sent_bytes);
}

#[test]
fn a_machine_whose_channels_choose_follows_by_postcopy() {
    let machine = busy();
    let destination = destination(&loopback(), &machine);
    let params = Params::default().postcopy(Postcopy::OnRequest).max_bandwidth(4_000_000).encodings(AUTO);
    let (handle, notes) =
        migrate(machine.clone(), destination.address(), params.downtime_limit(Duration::ZERO));
    while handle.snapshot().encoded.packed_pages == 0 {
        std::thread::yield_now();
    }
    handle.start_postcopy();
    assert_arrived_whole(&machine, &destination, &notes);
}

#[test]
fn pages_that_follow_a_machine_are_packed_and_never_differences() {
    for digest in [Digest::Off, Digest::Transfer] {
        for postcopy in [Postcopy::Immediate, Postcopy::OnRequest] {
            let machine = busy();
            let destination = destination(&loopback(), &machine);
            let params = Params::default().postcopy(postcopy).digest(digest).channels(3).encodings(ALL);
            let params = params.downtime_limit(Duration::ZERO);
            let (handle, notes) = migrate(machine.clone(), destination.address(), params);
            if postcopy == Postcopy::OnRequest {
                while handle.snapshot().encoded.deltas == 0 {
                    std::thread::yield_now();
                }
                handle.start_postcopy();
            }
            assert_arrived_whole(&machine, &destination, &notes);
            let snapshot = handle.snapshot();
            assert!(snapshot.encoded.packed_pages > 0, "{:?}", snapshot.encoded);
            assert!(postcopy == Postcopy::OnRequest || snapshot.encoded.deltas == 0);
        }
    }
}

#[test]
fn a_destination_that_lacks_encodings_gets_pages_as_they_are_and_it_is_said() {
    let old = Offer { features: Features::from_bits(0b111), ..Offer::of("old") };
    let machine = busy();
    let destination = destination_as(&old, &loopback(), &machine);
    let params = Params::default().encodings(ALL);
    let (handle, notes) = migrate(machine.clone(), destination.address(), params);
    assert_arrived_whole(&machine, &destination, &notes);
    let snapshot = handle.snapshot();
    assert_eq!((snapshot.pages.delta, snapshot.encoded.packed_pages), (0, 0));
    assert!(!snapshot.encoded.encodings.are_any());
    let said: Vec<_> = snapshot.statistics.decisions.iter().map(|(_, text)| text.as_str()).collect();
    for what in ["unpack pages", "take pages as differences"] {
        assert!(said.iter().any(|text| text.contains(what) && text.contains("old")), "{said:?}");
    }
}

#[test]
fn after_an_attempt_that_failed_nothing_that_it_kept_is_used() {
    let machine = busy();
    let first = destination(&loopback(), &machine);
    let params = Params::default().encodings(DELTAS).channels(2).downtime_limit(Duration::ZERO);
    let (handle, notes) = migrate(machine.clone(), first.address(), params.clone());
    while handle.snapshot().encoded.deltas < 100 {
        std::thread::yield_now();
    }
    handle.cancel();
    assert_eq!(notes.outcome(), migration::Outcome::Cancelled);
    // The same destination, whose memory is fresh again.
    let (handle, notes) = migrate(machine.clone(), first.address(), params);
    while handle.snapshot().encoded.deltas < 100 {
        std::thread::yield_now();
    }
    handle.set_live(0, Duration::from_millis(300), 0);
    assert_arrived_whole(&machine, &first, &notes);
}
