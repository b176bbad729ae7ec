use std::{
    arch::x86_64::{__m256i, _mm256_loadu_si256, _mm256_or_si256, _mm256_testz_si256},
    ptr::NonNull,
};

use crate::PAGE_SIZE;

/// Whether all bytes of the page at `page` are zero, at the moment of looking.
///
/// The guest may be writing the page meanwhile. That is why its dirty bit is cleared *before* this look: a write
/// that the look misses is in the next round's log.
///
/// # Safety
/// `page` points to [`PAGE_SIZE`] mapped, readable bytes.
#[must_use]
pub unsafe fn is_zero_page(page: NonNull<u8>) -> bool {
    // Most pages that are not zero show it in their first bytes; then nothing else of the page is read into the cache.
    // SAFETY: the caller's promise. Volatile, since the guest may change it.
    if unsafe { page.cast::<u64>().read_volatile() } != 0 {
        return false;
    }
    if is_x86_feature_detected!("avx2") {
        // SAFETY: AVX2 is there, and the caller's promise.
        unsafe { is_zero_avx2(page) }
    } else {
        // SAFETY: the caller's promise.
        unsafe { is_zero_words(page) }
    }
}

/// # Safety
/// As [`is_zero_page`], on a CPU with AVX2.
#[target_feature(enable = "avx2")]
unsafe fn is_zero_avx2(page: NonNull<u8>) -> bool {
    const LANES: usize = 8;
    const STEP: usize = LANES * size_of::<__m256i>();
    let start = page.as_ptr().cast_const();
    for offset in (0..PAGE_SIZE).step_by(STEP) {
        let lane = |index: usize| {
            // SAFETY: offset + index × 32 + 32 ≤ PAGE_SIZE, all of which the caller promised. The load is one
            // instruction whose value is used once, so a concurrent write of the guest cannot be seen in two ways.
            unsafe { _mm256_loadu_si256(start.add(offset).cast::<__m256i>().add(index)) }
        };
        let mut sum = lane(0);
        for index in 1..LANES {
            sum = _mm256_or_si256(sum, lane(index));
        }
        if _mm256_testz_si256(sum, sum) == 0 {
            return false;
        }
    }
    true
}

/// # Safety
/// As [`is_zero_page`].
unsafe fn is_zero_words(page: NonNull<u8>) -> bool {
    let words = page.cast::<u64>();
    for index in 0..PAGE_SIZE / size_of::<u64>() {
        // SAFETY: within the page, which the caller promised.
        if unsafe { words.add(index).read_volatile() } != 0 {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(4096))]
    struct Page([u8; PAGE_SIZE]);

    fn looks(page: &mut Page) -> [bool; 2] {
        let page = NonNull::from(&mut page.0).cast();
        // SAFETY: a whole page that lives on.
        unsafe { [is_zero_page(page), is_zero_words(page)] }
    }

    #[test]
    fn a_page_of_zeros_is_zero() {
        assert_eq!(looks(&mut Page([0; PAGE_SIZE])), [true, true]);
    }

    #[test]
    fn a_single_bit_anywhere_is_noticed() {
        let mut page = Page([0; PAGE_SIZE]);
        for byte in 0..PAGE_SIZE {
            page.0[byte] = 1 << (byte % 8);
            assert_eq!(looks(&mut page), [false, false], "byte {byte}");
            page.0[byte] = 0;
        }
    }
}
