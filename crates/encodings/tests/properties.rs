//! What holds for all pages and all bytes.

use proptest::{collection::vec, prelude::*};
use whimbrel_encodings::{Delta, Kept, MAX_DELTA_BYTES, Packer, Page, Sent, Unpacker, delta};
use wire::{PAGE_BYTES, Packing};

/// A page of few different bytes, in stretches.
fn page() -> impl Strategy<Value = Page> {
    vec((0..PAGE_BYTES, 0..600_usize, any::<u8>()), 0..20).prop_map(|fills| {
        let mut page = [0; PAGE_BYTES];
        for (first, bytes, fill) in fills {
            page[first..(first + bytes).min(PAGE_BYTES)].fill(fill);
        }
        page
    })
}

/// What may happen to a page from one round to the next.
fn change() -> impl Strategy<Value = Vec<(usize, u8)>> {
    prop_oneof![
        vec((0..PAGE_BYTES, any::<u8>()), 0..40),
        vec((0..PAGE_BYTES, any::<u8>()), 200..400),
        (0..PAGE_BYTES - 2500, 1..2500_usize, any::<u8>())
            .prop_map(|(first, bytes, fill)| (first..first + bytes).map(|at| (at, fill)).collect()),
    ]
}

fn changed(page: &Page, change: &[(usize, u8)]) -> Page {
    let mut page = *page;
    change.iter().for_each(|&(at, byte)| page[at] = byte);
    page
}

proptest! {
    // A failure that was found is written down as a test of its own, not kept beside them.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_difference_makes_of_the_old_page_the_new_one(old in page(), change in change()) {
        let (new, mut out) = (changed(&old, &change), vec![1, 2]);
        match delta::encode(&old, &new, &mut out) {
            Some(bytes) => {
                prop_assert!((1..=MAX_DELTA_BYTES).contains(&bytes) && out.len() == bytes + 2);
                let (delta, rest) = Delta::split_from(&out[2..]).unwrap();
                prop_assert!(rest.is_empty());
                let mut page = old;
                delta.apply(&mut page);
                prop_assert!(page == new);
            }
            None => prop_assert_eq!(out, [1, 2]),
        }
    }

    #[test]
    fn any_bytes_are_refused_or_change_what_lies_in_the_page(mut bytes in vec(any::<u8>(), 0..5000), runs: u8) {
        if let Some(first) = bytes.first_mut() {
            *first = runs % 9;
        }
        if let Ok((delta, rest)) = Delta::split_from(&bytes) {
            let (mut end, mut page) = (0, [0; PAGE_BYTES]);
            for (offset, bytes) in delta.changes() {
                prop_assert!(offset >= end && !bytes.is_empty() && bytes.len() % 8 == 0);
                end = offset + bytes.len();
                prop_assert!(end <= PAGE_BYTES);
            }
            delta.apply(&mut page);
            prop_assert!(rest.len() < bytes.len() && bytes.len() - rest.len() <= MAX_DELTA_BYTES);
        }
    }

    /// Pages are sent in all ways, in rounds, with little room: what the destination makes of it is what was sent.
    #[test]
    fn a_destination_has_what_was_sent(
        room in 0..6_u64,
        rounds in vec(vec((0..8_u64, change(), 0..10_u8), 0..8), 1..12),
    ) {
        let kept = Kept::new([8 * 64], room * PAGE_BYTES as u64);
        let mut here = vec![[0; PAGE_BYTES]; 8];
        let mut there = here.clone();
        for (round, pages) in rounds.iter().enumerate() {
            let round = round as u32;
            kept.pass(0, 0, 8 * 64, round);
            for (index, change, way) in pages {
                let (at, page) = (*index as usize, index * 64 + index);
                here[at] = if *way == 0 { [0; PAGE_BYTES] } else { changed(&here[at], change) };
                let mut out = Vec::new();
                match way {
                    0 => {
                        kept.is_zero(0, page);
                        there[at] = [0; PAGE_BYTES];
                    }
                    1 => {
                        kept.forget(0, page);
                        there[at] = here[at];
                    }
                    _ => match kept.send(0, page, Some(round), &here[at], &mut out) {
                        Sent::Delta(bytes) => {
                            prop_assert_eq!(bytes, out.len());
                            Delta::split_from(&out).unwrap().0.apply(&mut there[at]);
                        }
                        Sent::Missing | Sent::Overflow => there[at] = here[at],
                    },
                }
                prop_assert!(there[at] == here[at]);
            }
            prop_assert!(kept.bytes() <= room * PAGE_BYTES as u64);
        }
    }

    #[test]
    fn what_is_packed_comes_out_as_it_was(pages in vec(page(), 1..5), level in 0..6_u8, lz4: bool) {
        let (plain, packing) = (pages.concat(), if lz4 { Packing::Lz4 } else { Packing::Zstd });
        let mut packer = Packer::default();
        if let Some(packed) = packer.pack(packing, level, &plain) {
            prop_assert!(packed.len() < plain.len());
            let mut out = vec![0; plain.len()];
            Unpacker::default().unpack(packing, packed, &mut out).unwrap();
            prop_assert!(out == plain);
        }
    }

    #[test]
    fn any_bytes_unpack_to_what_was_said_or_are_refused(packed in vec(any::<u8>(), 0..3000), bytes in 0..9000_usize) {
        for packing in [Packing::Lz4, Packing::Zstd] {
            let _ = Unpacker::default().unpack(packing, &packed, &mut vec![0; bytes]);
        }
    }
}
