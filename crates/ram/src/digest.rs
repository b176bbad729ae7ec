use std::{
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
};

use xxhash_rust::xxh3::Xxh3;

use crate::{Block, PAGE_SIZE, Ram};

/// XXH3-64 of every piece of `piece_bytes` of every block, block after block, computed by `threads` threads.
///
/// The machine must be stopped, or the digest says nothing. It guards against lost and damaged pages, not against an attacker.
#[must_use]
pub fn digest(ram: &Ram, piece_bytes: u64, threads: usize) -> Vec<u64> {
    let pieces: Vec<(&Block, Range<u64>)> =
        ram.blocks().iter().flat_map(|block| split(block, piece_bytes)).collect();
    let mut digests = vec![0; pieces.len()];
    let next = AtomicUsize::new(0);
    let parts: Vec<(usize, u64)> = std::thread::scope(|scope| {
        let worker = || {
            let mut done = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some((block, range)) = pieces.get(index) else { return done };
                done.push((index, digest_piece(block, range)));
            }
        };
        let workers: Vec<_> = (1..threads.max(1)).map(|_| scope.spawn(worker)).collect();
        let mut parts = worker();
        for worker in workers {
            parts.extend(worker.join().expect("digesting does not panic"));
        }
        parts
    });
    for (index, digest) in parts {
        digests[index] = digest;
    }
    digests
}

/// What piece number `index` of [`digest`] covers, for messages: block name and guest-physical addresses.
#[must_use]
pub fn piece_name(ram: &Ram, piece_bytes: u64, index: usize) -> Option<String> {
    let mut pieces = ram.blocks().iter().flat_map(|block| split(block, piece_bytes));
    let (block, range) = pieces.nth(index)?;
    let start = block.guest_address();
    Some(format!("{} {:#x}–{:#x}", block.name(), start + range.start, start + range.end - 1))
}

fn split(block: &Block, piece_bytes: u64) -> impl Iterator<Item = (&Block, Range<u64>)> {
    let piece_bytes = piece_bytes.max(PAGE_SIZE as u64);
    let pieces = block.bytes().div_ceil(piece_bytes);
    (0..pieces).map(move |piece| (block, piece * piece_bytes..((piece + 1) * piece_bytes).min(block.bytes())))
}

fn digest_piece(block: &Block, range: &Range<u64>) -> u64 {
    let mut hasher = Xxh3::new();
    let mut page = [0_u8; PAGE_SIZE];
    for offset in range.clone().step_by(PAGE_SIZE) {
        // SAFETY: the range lies within the block, whose mapping lives as long as the borrow of it. The page is copied out
        // before it is looked at, so that a guest that writes against the rules can spoil the digest and nothing else.
        unsafe {
            let source = block.host_address().add(offset as usize).as_ptr();
            std::ptr::copy_nonoverlapping(source, page.as_mut_ptr(), PAGE_SIZE);
        }
        hasher.update(&page);
    }
    hasher.digest()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backing, BlockLayout};
    use vm_memory::{Bytes, GuestAddress};

    const MIB: u64 = 1 << 20;

    fn ram() -> Ram {
        let block =
            |name: &str, guest_address, bytes| BlockLayout { name: name.into(), guest_address, bytes };
        Ram::allocate(&[block("ram.low", 0, 3 * MIB), block("ram.high", 4096 * MIB, MIB)], Backing::Anonymous)
            .unwrap()
    }

    #[test]
    fn a_changed_byte_changes_the_digest_of_its_piece_only() {
        let ram = ram();
        let before = digest(&ram, 2 * MIB, 3);
        ram.memory().write_obj(1_u8, GuestAddress(4096 * MIB + 77)).unwrap();
        let after = digest(&ram, 2 * MIB, 1);
        let changed: Vec<_> = (0..before.len()).filter(|&piece| before[piece] != after[piece]).collect();
        assert_eq!((before.len(), changed), (3, vec![2]));
        assert_eq!(piece_name(&ram, 2 * MIB, 2).unwrap(), "ram.high 0x100000000–0x1000fffff");
    }
}
