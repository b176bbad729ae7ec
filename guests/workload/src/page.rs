//! A page that can tell whether it is the page it should be.
//!
//! The first three words of every written page are its page frame number, its generation and a checksum
//! over both and all other words. The generation that a page *must* have is remembered elsewhere, so a
//! page that went back to an older state, to zero, or to another page's content is found even though it is
//! consistent in itself. Generation 0 is the page that was never written: all zero, header included.
//!
//! The checksum is a sum of one term per word, so changing one word of a page costs one word's work. That
//! also means that what was wrong in a page before it is changed is still wrong after: a change never
//! covers up a fault. Where the whole page is rewritten, [`Rules::verify`] has to come first.

use crate::content::{Fill, GOLDEN, mix};

/// Words in a page of 4096 bytes.
pub const WORDS: usize = 512;
/// Bytes in a page.
pub const BYTES: u64 = 4096;
/// Page frame number, generation, checksum.
const HEADER: usize = 3;
/// Words that [`Touch::Part`] changes: 1 KiB.
const PART: usize = 128;

/// A page of guest memory.
pub type Page = [u64; WORDS];

/// How much of a page a change touches. The header changes always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// One word, at a place that moves with each generation.
    Word,
    /// 1 KiB in one piece, at a place that moves with each generation.
    Part,
    /// Every word.
    Page,
}

/// What is wrong with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is all zero, and should not be.
    Zeroed,
    /// It is whole, but from an earlier (or later) generation.
    Stale {
        /// The generation it is from.
        generation: u64,
    },
    /// It is whole, but it is another page.
    Foreign {
        /// The page frame number in it.
        page: u64,
        /// The generation in it.
        generation: u64,
    },
    /// Its header is as it should be, and the rest does not belong to it.
    Torn {
        /// The checksum in the header.
        expected: u64,
        /// The checksum of what is there.
        found: u64,
    },
    /// Its header makes no sense.
    Garbage {
        /// What stands where the page frame number should be.
        page: u64,
        /// What stands where the generation should be.
        generation: u64,
    },
}

impl Fault {
    /// One word for it.
    pub fn name(&self) -> &'static str {
        match self {
            Fault::Zeroed => "zeroed",
            Fault::Stale { .. } => "stale",
            Fault::Foreign { .. } => "foreign",
            Fault::Torn { .. } => "torn",
            Fault::Garbage { .. } => "garbage",
        }
    }
}

/// The generation after this one. 0 is never reached again.
#[inline]
pub fn next_generation(generation: u32) -> u32 {
    generation.checked_add(1).unwrap_or(1)
}

/// What all pages of one guest have in common.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Makes this guest's pages differ from every other guest's.
    pub seed: u64,
    /// What pages look like.
    pub fill: Fill,
    /// How much of a page a change touches.
    pub touch: Touch,
}

impl Rules {
    /// Writes all of page `number` as `generation`, whatever was there.
    pub fn write(&self, page: &mut Page, number: u64, generation: u32) {
        if generation == 0 {
            page.fill(0);
            return;
        }
        let key = self.key(number, generation);
        let mut sum = self.seal(number, generation);
        for (place, word) in page.iter_mut().enumerate().skip(HEADER) {
            *word = self.fill.word(key, place);
            sum = sum.wrapping_add(weigh(*word, place));
        }
        page[0] = number;
        page[1] = u64::from(generation);
        page[2] = sum;
    }

    /// Changes page `number` from generation `old` to `new`, and finds whether its header was that of
    /// `old`. A page with a fault is left as it is.
    ///
    /// # Errors
    /// What is wrong with the page, if its header is not that of `old`.
    #[inline]
    pub fn change(&self, page: &mut Page, number: u64, old: u32, new: u32) -> Result<(), Fault> {
        let sum = if old == 0 {
            if (page[0] | page[1] | page[2]) != 0 {
                return Err(self.diagnose(page, number, old));
            }
            self.seal(number, 0).wrapping_add(SUM_OF_ZEROS)
        } else {
            if page[0] != number || page[1] != u64::from(old) {
                return Err(self.diagnose(page, number, old));
            }
            page[2]
        };
        let key = self.key(number, new);
        let (start, count) = match self.touch {
            Touch::Word => (HEADER + place_in(key, WORDS - HEADER), 1),
            Touch::Part => (HEADER + place_in(key, WORDS - HEADER - PART), PART),
            Touch::Page => {
                self.write(page, number, new);
                return Ok(());
            }
        };
        let mut sum = sum.wrapping_sub(self.seal(number, old)).wrapping_add(self.seal(number, new));
        for (place, word) in page.iter_mut().enumerate().skip(start).take(count) {
            sum = sum.wrapping_sub(weigh(*word, place));
            *word = if count == 1 { self.fill.changed_word(key, place) } else { self.fill.word(key, place) };
            sum = sum.wrapping_add(weigh(*word, place));
        }
        page[0] = number;
        page[1] = u64::from(new);
        page[2] = sum;
        Ok(())
    }

    /// Reads all of page `number` and finds whether it is what `generation` must be.
    ///
    /// # Errors
    /// What is wrong with it.
    #[inline]
    pub fn verify(&self, page: &Page, number: u64, generation: u32) -> Result<(), Fault> {
        let good = if generation == 0 {
            is_zero(page)
        } else {
            page[0] == number
                && page[1] == u64::from(generation)
                && page[2] == self.seal(number, generation).wrapping_add(sum_of(page))
        };
        if good { Ok(()) } else { Err(self.diagnose(page, number, generation)) }
    }

    #[cold]
    fn diagnose(&self, page: &Page, number: u64, generation: u32) -> Fault {
        if is_zero(page) {
            return Fault::Zeroed;
        }
        let (found_number, found_generation) = (page[0], page[1]);
        let sum = sum_of(page);
        let whole = u32::try_from(found_generation).is_ok_and(|found_generation| {
            found_generation != 0 && page[2] == self.seal(found_number, found_generation).wrapping_add(sum)
        });
        if whole && found_number != number {
            Fault::Foreign { page: found_number, generation: found_generation }
        } else if whole && found_generation != u64::from(generation) {
            Fault::Stale { generation: found_generation }
        } else if found_number == number && found_generation == u64::from(generation) {
            Fault::Torn { expected: page[2], found: self.seal(number, generation).wrapping_add(sum) }
        } else {
            Fault::Garbage { page: found_number, generation: found_generation }
        }
    }

    fn key(&self, number: u64, generation: u32) -> u64 {
        mix(self.seed ^ mix(number.wrapping_mul(GOLDEN) ^ u64::from(generation)))
    }

    /// The header's part of the checksum.
    fn seal(&self, number: u64, generation: u32) -> u64 {
        mix(self.key(number, generation) ^ GOLDEN)
    }
}

/// One word's part of the checksum: depends on its value and its place.
#[inline]
const fn weigh(word: u64, place: usize) -> u64 {
    let word = word.wrapping_add((place as u64).wrapping_mul(GOLDEN));
    (word ^ (word >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

#[inline]
fn sum_of(page: &Page) -> u64 {
    let mut sum = 0u64;
    for (place, word) in page.iter().enumerate().skip(HEADER) {
        sum = sum.wrapping_add(weigh(*word, place));
    }
    sum
}

const SUM_OF_ZEROS: u64 = {
    let mut sum = 0u64;
    let mut place = HEADER;
    while place < WORDS {
        sum = sum.wrapping_add(weigh(0, place));
        place += 1;
    }
    sum
};

/// Whether every word is zero.
#[inline]
pub fn is_zero(page: &Page) -> bool {
    page.as_chunks::<8>().0.iter().all(|chunk| chunk.iter().fold(0, |all, word| all | word) == 0)
}

fn place_in(key: u64, count: usize) -> usize {
    ((u128::from(mix(key)) * count as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILLS: [Fill; 4] = [Fill::Zero, Fill::Sparse, Fill::Text, Fill::Random];
    const TOUCHES: [Touch; 3] = [Touch::Word, Touch::Part, Touch::Page];

    fn all_rules() -> impl Iterator<Item = Rules> {
        FILLS.into_iter().flat_map(|fill| TOUCHES.map(|touch| Rules { seed: 42, fill, touch }))
    }

    fn fresh(rules: &Rules) -> (Page, u32) {
        let mut page = [0; WORDS];
        let generation = u32::from(rules.fill != Fill::Zero);
        rules.write(&mut page, 7, generation);
        (page, generation)
    }

    #[test]
    fn a_page_verifies_through_many_changes() {
        for rules in all_rules() {
            let (mut page, mut generation) = fresh(&rules);
            rules.verify(&page, 7, generation).unwrap();
            for _ in 0..100 {
                let new = next_generation(generation);
                rules.change(&mut page, 7, generation, new).unwrap();
                generation = new;
                rules.verify(&page, 7, generation).unwrap();
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_found() {
        for rules in all_rules() {
            let (mut page, generation) = fresh(&rules);
            rules.change(&mut page, 7, generation, 5).unwrap();
            for word in 0..WORDS {
                for bit in 0..64 {
                    page[word] ^= 1 << bit;
                    assert!(rules.verify(&page, 7, 5).is_err(), "{rules:?} word {word} bit {bit}");
                    page[word] ^= 1 << bit;
                }
            }
        }
    }

    #[test]
    fn an_older_state_is_stale() {
        for rules in all_rules() {
            let (mut page, generation) = fresh(&rules);
            rules.change(&mut page, 7, generation, 5).unwrap();
            let older = page;
            rules.change(&mut page, 7, 5, 6).unwrap();
            assert_eq!(rules.verify(&older, 7, 6), Err(Fault::Stale { generation: 5 }));
            assert_eq!(rules.change(&mut older.clone(), 7, 6, 7), Err(Fault::Stale { generation: 5 }));
        }
    }

    #[test]
    fn a_zeroed_page_is_found_by_a_check_and_by_a_change() {
        for rules in all_rules() {
            let mut page = [0; WORDS];
            assert_eq!(rules.verify(&page, 7, 5), Err(Fault::Zeroed));
            assert_eq!(rules.change(&mut page, 7, 5, 6), Err(Fault::Zeroed));
        }
    }

    #[test]
    fn another_pages_content_is_foreign() {
        for rules in all_rules() {
            let mut page = [0; WORDS];
            rules.write(&mut page, 8, 5);
            let foreign = Fault::Foreign { page: 8, generation: 5 };
            assert_eq!(rules.verify(&page, 7, 5), Err(foreign));
            assert_eq!(rules.change(&mut page, 7, 5, 6), Err(foreign));
            assert_eq!(rules.verify(&page, 7, 0), Err(foreign));
        }
    }

    #[test]
    fn another_guests_page_is_not_ours() {
        let ours = Rules { seed: 1, fill: Fill::Random, touch: Touch::Word };
        let theirs = Rules { seed: 2, ..ours };
        let mut page = [0; WORDS];
        theirs.write(&mut page, 7, 1);
        assert!(matches!(ours.verify(&page, 7, 1), Err(Fault::Torn { .. })));
    }

    #[test]
    fn a_stale_line_in_a_changed_page_is_torn_and_stays_torn() {
        let rules = Rules { seed: 3, fill: Fill::Random, touch: Touch::Part };
        let (mut page, generation) = fresh(&rules);
        let before = page;
        rules.change(&mut page, 7, generation, 2).unwrap();
        let changed = (HEADER..WORDS).find(|&place| page[place] != before[place]).unwrap();
        page[changed] = before[changed];
        assert!(matches!(rules.verify(&page, 7, 2), Err(Fault::Torn { .. })));
        for generation in 2..200 {
            rules.change(&mut page, 7, generation, generation + 1).unwrap();
            assert!(matches!(rules.verify(&page, 7, generation + 1), Err(Fault::Torn { .. })));
        }
    }

    #[test]
    fn dirt_in_a_page_that_should_be_zero_survives_its_first_change() {
        let rules = Rules { seed: 3, fill: Fill::Zero, touch: Touch::Word };
        let mut page = [0; WORDS];
        page[100] = 1;
        assert!(matches!(rules.verify(&page, 7, 0), Err(Fault::Garbage { .. } | Fault::Torn { .. })));
        rules.change(&mut page, 7, 0, 1).unwrap();
        assert!(matches!(rules.verify(&page, 7, 1), Err(Fault::Torn { .. })));
    }

    #[test]
    fn a_change_of_a_word_changes_few_words_and_of_a_page_nearly_all() {
        let differing = |touch| {
            let rules = Rules { seed: 9, fill: Fill::Random, touch };
            let (mut page, generation) = fresh(&rules);
            let before = page;
            rules.change(&mut page, 7, generation, 2).unwrap();
            page.iter().zip(&before).filter(|(new, old)| new != old).count()
        };
        assert_eq!(differing(Touch::Word), 3);
        assert_eq!(differing(Touch::Part), PART + 2);
        assert_eq!(differing(Touch::Page), WORDS - 1);
    }

    #[test]
    fn generation_zero_never_returns() {
        assert_eq!(next_generation(u32::MAX), 1);
    }
}
