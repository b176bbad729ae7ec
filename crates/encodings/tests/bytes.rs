//! What encodings make of pages, as files: what any release has sent, every later one understands.
//!
//! `NEW_BYTES=1 cargo test -p whimbrel-encodings --test bytes` writes the files that are missing. What the packers make may change with
//! their releases, and only has to be understood; what a difference is made of may not.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

use std::{fs, path::PathBuf};

use whimbrel_encodings::{Delta, Packer, Page, Unpacker, delta};
use wire::Packing;

/// A page of words that are their own numbers.
fn old() -> Page {
    let mut page = [0; 4096];
    for (number, word) in (0_u64..).zip(page.as_chunks_mut::<8>().0) {
        *word = number.to_le_bytes();
    }
    page
}

/// The same, with a word at either end, a run of three, and one that is as long as a run can be and a word longer, changed.
fn new() -> Page {
    let mut page = old();
    for word in [0, 511].into_iter().chain(7..10).chain(100..229) {
        page[word * 8] ^= 0x80;
    }
    page
}

fn text() -> Vec<u8> {
    b"a line of a log, and another one, and the same words again\n"
        .iter()
        .copied()
        .cycle()
        .take(3 * 4096)
        .collect()
}

/// The file of this name, which is written with `bytes` if there is none and that is wanted.
fn known(name: &str, bytes: &[u8]) -> Vec<u8> {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests", "bytes", name].iter().collect();
    if !path.exists() && std::env::var_os("NEW_BYTES").is_some() {
        fs::write(&path, bytes).unwrap();
    }
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn a_difference_has_the_bytes_that_it_always_had_and_is_understood() {
    let mut bytes = Vec::new();
    delta::encode(&old(), &new(), &mut bytes).unwrap();
    let known = known("delta-v1", &bytes);
    assert!(known == bytes, "peers would not understand it");
    let (difference, rest) = Delta::split_from(&known).unwrap();
    let mut page = old();
    difference.apply(&mut page);
    assert!(page == new() && rest.is_empty());
}

#[test]
fn what_was_ever_packed_is_unpacked() {
    for (packing, name) in [(Packing::Lz4, "lz4-v1"), (Packing::Zstd, "zstd-v1")] {
        let mut packer = Packer::default();
        let known = known(name, packer.pack(packing, 1, &text()).unwrap());
        let mut plain = vec![0; text().len()];
        Unpacker::default().unpack(packing, &known, &mut plain).unwrap();
        assert!(plain == text(), "{name}");
    }
}
