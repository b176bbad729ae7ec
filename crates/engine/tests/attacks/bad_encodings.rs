//! Sources whose encoded pages are no good: the attempt ends with the reason, and the next one works.

use std::sync::atomic::Ordering;

use wire::{Batch, Encoding, Features, Message, Offer, Packing, Run};

use crate::{
    assert_moves, assert_runs_here, bad_sources::wait_until_free, destination, peer::GoodStart,
    running_machine, watch,
};

/// A page that goes raw first, so that differences have something to be from.
const BASE: u64 = 0;

fn deltas(first_page: u64, pages: u32, data: &[u8]) -> (Batch, Vec<u8>) {
    let encoding = Encoding::Delta { bytes: data.len() as u32 };
    (Batch { runs: vec![Run { first_page, pages, encoding }], ..Batch::default() }, data.to_vec())
}

fn packed(packing: Packing, pages: u32, data: &[u8]) -> (Batch, Vec<u8>) {
    let runs = vec![Run { first_page: 1, pages, encoding: Encoding::Raw }];
    (Batch { runs, packed: Some((packing, data.len() as u32)), ..Batch::default() }, data.to_vec())
}

/// What `plain` is packed.
fn pack(packing: Packing, plain: &[u8]) -> Vec<u8> {
    encodings::Packer::default().pack(packing, 1, plain).unwrap().to_vec()
}

/// Everything that is no good, with a word of the reason.
fn no_good() -> Vec<(Batch, Vec<u8>, &'static str)> {
    let run = |first: u16, words: u16| {
        [&(first | (words - 1) << 9).to_le_bytes()[..], &vec![1; 8 * usize::from(words)]].concat()
    };
    let delta = |runs: &[(u16, u16)]| {
        let bytes = runs.iter().flat_map(|&(first, words)| run(first, words));
        std::iter::once(runs.len() as u8).chain(bytes).collect::<Vec<_>>()
    };
    let mut bad = Vec::new();
    let mut add = |(batch, data), why| bad.push((batch, data, why));
    let sound = delta(&[(3, 1)]);
    add(deltas(BASE, 1, &sound[..sound.len() - 1]), "ends too early");
    add(deltas(BASE, 1, &[&sound[..], &[0]].concat()), "left over");
    add(deltas(BASE, 1, &delta(&[(511, 2)])), "past the end");
    add(deltas(BASE, 1, &delta(&[(4, 2), (5, 1)])), "not in order");
    add(deltas(BASE, 1, &delta(&[(4, 2), (6, 1)])), "not in order");
    add(deltas(9, 1, &sound), "never sent");
    // The first is good, the second is not: the first must not be there either.
    add(deltas(BASE, 2, &[&sound[..], &sound[..]].concat()), "never sent");
    let tiny: Vec<_> = (0..180).map(|index| (index * 2, 1)).collect();
    add(deltas(BASE, 1, &[&delta(&tiny)[..], &run(400, 1)].concat()), "left over");
    let huge = Run { first_page: 0, pages: 1, encoding: Encoding::Delta { bytes: 2049 } };
    add((Batch { runs: vec![huge], ..Batch::default() }, Vec::new()), "2049 bytes of data");
    let none = Run { first_page: 0, pages: 2, encoding: Encoding::Delta { bytes: 1 } };
    add((Batch { runs: vec![none], ..Batch::default() }, Vec::new()), "1 bytes of data");
    for packing in [Packing::Lz4, Packing::Zstd] {
        add(packed(packing, 2, &pack(packing, &[7; 4096])), "no good");
        add(packed(packing, 1, &pack(packing, &[7; 8192])), "no good");
        add(packed(packing, 1, &pack(packing, &[7; 4096])[1..]), "no good");
        add(packed(packing, 1, &[0x55; 99]), "no good");
        add(packed(packing, 1, &[]), "does not make shorter");
        let mut longer = packed(packing, 1, &[]);
        longer.0.packed = Some((packing, 4096));
        add(longer, "does not make shorter");
        add(packed(packing, 257, &pack(packing, &[7; 257 * 4096])), "too much data");
    }
    // As many pages as a batch may have, of nothing: 64 times as many come out of it.
    let bomb = pack(Packing::Zstd, &vec![0; 64 << 20]);
    add(packed(Packing::Zstd, 256, &bomb), "no good");
    bad
}

#[test]
fn encoded_pages_that_are_no_good_end_the_attempt_with_the_reason_and_change_nothing() {
    watch::panics();
    let machine = running_machine();
    let destination = destination(&machine);
    for (batch, data, why) in no_good() {
        let mut source = GoodStart::new(destination.address(), &machine, 2);
        assert!(source.channels[0].send_page(0, 7));
        source.channels[0].send_batch(&batch, &data);
        let Some(Message::Abort { reason }) = source.control.hear_news() else {
            panic!("{why}: it was taken")
        };
        assert!(reason.contains(why), "{reason} instead of {why}");
        source.control.wait_for_end();
        wait_until_free(&destination);
    }
    assert!(!machine.disk.two_ran.load(Ordering::SeqCst));
    assert_runs_here(&machine, &destination);
    assert_moves(&machine, &destination);
    watch::assert_no_panic();
}

#[test]
fn encodings_that_were_not_agreed_on_are_refused() {
    watch::panics();
    let machine = running_machine();
    let destination = destination(&machine);
    let without = Offer { features: Features::from_bits(0b111), ..Offer::of("old") };
    for (batch, data) in [deltas(BASE, 1, &[0]), packed(Packing::Lz4, 1, &pack(Packing::Lz4, &[7; 4096]))] {
        let mut source = GoodStart::offering(&without, destination.address(), &machine, 1);
        assert!(source.channels[0].send_page(0, 7));
        source.channels[0].send_batch(&batch, &data);
        let Some(Message::Abort { reason }) = source.control.hear_news() else { panic!("it was taken") };
        assert!(reason.contains("not agreed on"), "{reason}");
        source.control.wait_for_end();
        wait_until_free(&destination);
    }
    assert_moves(&machine, &destination);
}
