use std::{
    arch::x86_64::{_MM_HINT_T0, _mm_prefetch},
    ptr::NonNull,
};

use crate::PAGE_SIZE;

/// XXH3-64 (seed 0, default secret) of the page at `page`, at the moment of looking.
///
/// Both sides of a migration compare it: it is part of the protocol, and the same on every CPU. The algorithm is that of
/// `doc/xxhash_spec.md` of xxHash 0.8, for inputs of one page. It is written out here because libraries want a slice: a page that
/// a guest may be writing would have to be copied out first, and pages that are not in the cache are then summed up half as
/// fast.
///
/// A guest that writes meanwhile makes the sum that of a page that never was. What is written while it is looked at is
/// dirty and sent, and summed up, again.
///
/// # Safety
/// `page` points to [`PAGE_SIZE`] mapped, readable bytes.
#[must_use]
pub(crate) unsafe fn page_sum(page: NonNull<u8>) -> u64 {
    if is_x86_feature_detected!("avx2") {
        // SAFETY: AVX2 is there, and the caller's promise.
        unsafe { sum_avx2(page.as_ptr()) }
    } else {
        // SAFETY: the caller's promise.
        unsafe { sum(page.as_ptr()) }
    }
}

/// A sum of pages that lie side by side, and of those that were summed up `before` (0 for none). Part of the protocol, as [`page_sum`].
///
/// # Safety
/// All `bytes`, which are whole pages, are mapped and readable at `address`.
#[must_use]
pub unsafe fn sum_of_pages(before: u64, address: NonNull<u8>, bytes: usize) -> u64 {
    (0..bytes / PAGE_SIZE).fold(before, |sum, page| {
        // SAFETY: the caller's promise.
        let page = unsafe { page_sum(address.add(page * PAGE_SIZE)) };
        sum.wrapping_mul(PRIME64_1).wrapping_add(page)
    })
}

/// Eight sums side by side, as wide as a stripe.
type Lanes = [u64; LANES];

const LANES: usize = 8;
const STRIPE: usize = LANES * size_of::<u64>();
/// After as many stripes as the secret has keys for, the sums are scrambled.
const BLOCK_STRIPES: usize = SECRET.len() - LANES;
const BLOCK: usize = BLOCK_STRIPES * STRIPE;
const BLOCKS: usize = PAGE_SIZE / BLOCK;
/// How far ahead memory is asked for. Pages are mostly taken one after the other, and the processor does not look ahead of
/// the end of a page by itself.
const AHEAD: usize = PAGE_SIZE;

const PRIME32_1: u64 = 0x9e37_79b1;
const PRIME32_2: u64 = 0x85eb_ca77;
const PRIME32_3: u64 = 0xc2b2_ae3d;
const PRIME64_1: u64 = 0x9e37_79b1_85eb_ca87;
const PRIME64_2: u64 = 0xc2b2_ae3d_27d4_eb4f;
const PRIME64_3: u64 = 0x1656_67b1_9e37_79f9;
const PRIME64_4: u64 = 0x85eb_ca77_c2b2_ae63;
const PRIME64_5: u64 = 0x27d4_eb2f_1656_67c5;
const PRIME_MX1: u64 = 0x1656_6791_9e37_79f9;

/// The default secret, as little-endian words.
const SECRET: [u64; 24] = [
    0xbe4b_a423_396c_feb8,
    0x1cad_21f7_2c81_017c,
    0xdb97_9083_e96d_d4de,
    0x1f67_b3b7_a4a4_4072,
    0x78e5_c0cc_4ee6_79cb,
    0x2172_ffcc_7dd0_5a82,
    0x8e24_43f7_7446_08b8,
    0x4c26_3a81_e690_35e0,
    0xcb00_c391_bb52_283c,
    0xa32e_531b_8b65_d088,
    0x4ef9_0da2_9748_6471,
    0xd8ac_dea9_46ef_1938,
    0x3f34_9ce3_3f76_faa8,
    0x1d4f_0bc7_c7bb_dcf9,
    0x3159_b4cd_4be0_518a,
    0x6473_78d9_c97e_9fc8,
    0xc3eb_d334_83ac_c5ea,
    0xeb63_13fa_ffa0_81c5,
    0x49da_f0b7_51dd_0d17,
    0x9e68_d429_2655_16d3,
    0xfca1_477d_58be_162b,
    0xce31_d07a_d1b8_f88f,
    0x2804_1695_8f3a_cb45,
    0x7e40_4bbb_cafb_d7af,
];
const KEYS: [Lanes; BLOCK_STRIPES] = {
    let mut keys = [[0; LANES]; BLOCK_STRIPES];
    let mut stripe = 0;
    while stripe < BLOCK_STRIPES {
        keys[stripe] = secret_from(8 * stripe);
        stripe += 1;
    }
    keys
};
const SCRAMBLE_KEY: Lanes = secret_from(8 * BLOCK_STRIPES);
const LAST_KEY: Lanes = secret_from(8 * BLOCK_STRIPES - 7);
const MERGE_KEY: Lanes = secret_from(11);

#[target_feature(enable = "avx2")]
unsafe fn sum_avx2(page: *const u8) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { sum(page) }
}

/// Compiled once for every set of instructions.
///
/// # Safety
/// As [`page_sum`].
#[inline(always)]
unsafe fn sum(page: *const u8) -> u64 {
    let mut lanes = [PRIME32_3, PRIME64_1, PRIME64_2, PRIME64_3, PRIME64_4, PRIME32_2, PRIME64_5, PRIME32_1];
    for block in 0..BLOCKS {
        let is_last = block == BLOCKS - 1;
        for (stripe, key) in KEYS.iter().enumerate() {
            let offset = block * BLOCK + stripe * STRIPE;
            // SAFETY: it is a hint, which may name any address; offset + STRIPE ≤ PAGE_SIZE, all of which the caller promised.
            let data = unsafe {
                _mm_prefetch::<_MM_HINT_T0>(page.wrapping_add(offset + AHEAD).cast());
                load(page.add(offset))
            };
            let key = if is_last && stripe == BLOCK_STRIPES - 1 { &LAST_KEY } else { key };
            accumulate(&mut lanes, &data, key);
        }
        if !is_last {
            scramble(&mut lanes);
        }
    }
    merge(&lanes)
}

/// # Safety
/// `from` points to [`STRIPE`] mapped, readable bytes.
#[inline(always)]
unsafe fn load(from: *const u8) -> Lanes {
    // SAFETY: the caller's promise; any bytes are numbers. Guest memory is written by vCPUs and the kernel, which are no threads
    // of this program: should the compiler load a word twice and find two values, both go into a sum by arithmetic that is
    // defined for every value, and nothing is addressed, indexed or decided by them.
    unsafe { from.cast::<Lanes>().read_unaligned() }
}

#[inline(always)]
fn accumulate(lanes: &mut Lanes, data: &Lanes, key: &Lanes) {
    let before = *lanes;
    for lane in 0..LANES {
        let keyed = data[lane] ^ key[lane];
        let product = (keyed & u64::from(u32::MAX)) * (keyed >> 32);
        lanes[lane] = before[lane].wrapping_add(data[lane ^ 1]).wrapping_add(product);
    }
}

#[inline(always)]
fn scramble(lanes: &mut Lanes) {
    for (lane, key) in lanes.iter_mut().zip(SCRAMBLE_KEY) {
        *lane = (*lane ^ (*lane >> 47) ^ key).wrapping_mul(PRIME32_1);
    }
}

#[inline(always)]
fn merge(lanes: &Lanes) -> u64 {
    let mut sum = (PAGE_SIZE as u64).wrapping_mul(PRIME64_1);
    for lane in (0..LANES).step_by(2) {
        let [one, other] = [lane, lane + 1].map(|lane| u128::from(lanes[lane] ^ MERGE_KEY[lane]));
        let product = one * other;
        sum = sum.wrapping_add(product as u64 ^ (product >> 64) as u64);
    }
    sum = (sum ^ (sum >> 37)).wrapping_mul(PRIME_MX1);
    sum ^ (sum >> 32)
}

/// Eight words of the secret from byte `offset` on.
const fn secret_from(offset: usize) -> Lanes {
    let mut words = [0; LANES];
    let mut byte = 0;
    while byte < STRIPE {
        let at = offset + byte;
        words[byte / 8] |= (SECRET[at / 8] >> (8 * (at % 8)) & 0xff) << (8 * (byte % 8));
        byte += 1;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use xxhash_rust::xxh3::xxh3_64;

    #[repr(align(4096))]
    struct Page([u8; PAGE_SIZE]);

    fn sums(page: &mut Page) -> [u64; 2] {
        let page = NonNull::from(&mut page.0).cast();
        // SAFETY: a whole page that lives on.
        unsafe { [page_sum(page), sum(page.as_ptr())] }
    }

    #[test]
    fn sums_are_the_same_with_all_instructions_and_those_of_the_library() {
        let mut page = Page([0; PAGE_SIZE]);
        let mut state = 1_u64;
        for _ in 0..1000 {
            for word in page.0.chunks_exact_mut(8) {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                word.copy_from_slice(&(state ^ (state >> 29)).to_le_bytes());
            }
            assert_eq!(sums(&mut page), [xxh3_64(&page.0); 2]);
        }
    }

    #[test]
    fn every_bit_of_a_page_is_in_its_sum() {
        let mut page = Page([0; PAGE_SIZE]);
        for bit in 0..8 * PAGE_SIZE {
            page.0[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(sums(&mut page), [xxh3_64(&page.0); 2], "bit {bit}");
            page.0[bit / 8] = 0;
        }
    }

    /// What peers compare: another value here is another protocol version.
    #[test]
    fn sums_of_known_pages_are_what_peers_of_this_protocol_version_have() {
        let counted = std::array::from_fn(|byte| (byte % 251) as u8);
        let known = [
            ([0; PAGE_SIZE], 0x93d7_6fe1_48c6_89ba),
            ([0xff; PAGE_SIZE], 0x074c_fac2_7385_1dd6),
            (counted, 0x7135_ffa5_04f1_bc71),
        ];
        for (bytes, sum) in known {
            assert_eq!(sums(&mut Page(bytes)), [sum; 2]);
        }
    }
}
