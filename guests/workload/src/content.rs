//! What memory is filled with: words that depend on a key and their place, and on nothing else.

/// How compressible the content of memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// All-zero pages until a page is first dirtied; what is then rewritten looks sparse.
    Zero,
    /// One word in 32 is not zero.
    Sparse,
    /// Eight-letter words out of a small vocabulary: compresses about as well as a text does.
    Text,
    /// Nothing to compress.
    Random,
}

impl Fill {
    /// The word at `place` (0 to 511) of a page filled under `key`.
    #[inline]
    pub fn word(self, key: u64, place: usize) -> u64 {
        match self {
            Fill::Zero | Fill::Sparse => {
                if (place as u64 ^ key).is_multiple_of(SPARSE_STEP) {
                    self.changed_word(key, place)
                } else {
                    0
                }
            }
            Fill::Text | Fill::Random => self.changed_word(key, place),
        }
    }

    /// The word that a change of a single word writes: never the zero of a sparse page.
    #[inline]
    pub fn changed_word(self, key: u64, place: usize) -> u64 {
        let noise = mix(key.wrapping_add((place as u64).wrapping_mul(GOLDEN)));
        match self {
            Fill::Text => VOCABULARY[(noise >> 58) as usize],
            Fill::Zero | Fill::Sparse => noise | 1,
            Fill::Random => noise,
        }
    }
}

const SPARSE_STEP: u64 = 32;

/// 2^64 divided by the golden ratio: consecutive multiples spread evenly over all 64-bit numbers.
pub const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A bijection of 64-bit numbers in which every input bit moves every output bit (the finaliser of
/// SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
#[inline]
pub const fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// A stream of numbers that look random.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The stream that belongs to `seed`.
    pub fn new(seed: u64) -> Self {
        Self(mix(seed ^ GOLDEN))
    }

    /// The next number.
    #[inline]
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }

    /// A number below `end`, or 0 if `end` is 0.
    #[inline]
    pub fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.draw()) * u128::from(end)) >> 64) as u64
    }
}

/// The words of [`Fill::Text`], each padded with spaces to eight letters.
const VOCABULARY: [u64; 64] = {
    let mut padded = [0u64; 64];
    let mut index = 0;
    while index < 64 {
        let word = WORDS[index].as_bytes();
        let mut bytes = [b' '; 8];
        let mut byte = 0;
        while byte < word.len() {
            bytes[byte] = word[byte];
            byte += 1;
        }
        padded[index] = u64::from_le_bytes(bytes);
        index += 1;
    }
    padded
};

#[rustfmt::skip]
const WORDS: [&str; 64] = [
    "whimbrel", "numenius", "estuary", "mudflat", "southern", "northern", "autumn", "the", "wind",
    "tailwind", "crosses", "reef", "landfall", "storms", "squalls", "thunder", "rainfall", "sunlight",
    "moonrise", "stars", "dawn,", "night,", "and", "then", "but", "when", "against", "towards", "beneath",
    "over", "into", "across", "with", "from", "shore,", "tidal", "crabs", "shrimps", "berries.",
    "seaweed,", "sandbank", "lagoons", "islands", "coast", "marshes.", "heather", "moorland", "breeding",
    "winter", "staging", "feathers", "flock", "pair", "of", "calling,", "silence,", "seven", "whistles",
    "again.", "they", "fly", "they", "rest", "feed",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparse_page_has_sixteen_words() {
        for key in [0, 1, 31, 32, u64::MAX, mix(7)] {
            let words = (0..512).filter(|&place| Fill::Sparse.word(key, place) != 0).count();
            assert_eq!(words, 16, "key {key:#x}");
        }
    }

    #[test]
    fn text_is_printable() {
        for place in 0..512 {
            let word = Fill::Text.word(99, place).to_le_bytes();
            assert!(word.iter().all(|b| b.is_ascii_graphic() || *b == b' ' || *b == b'\n'));
        }
    }

    #[test]
    fn random_words_differ() {
        let mut words: Vec<u64> = (0..512).map(|place| Fill::Random.word(5, place)).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), 512);
    }

    #[test]
    fn numbers_stay_below_their_end_and_reach_all_of_it() {
        let mut random = Random::new(1);
        let mut seen = [false; 7];
        for _ in 0..1000 {
            seen[random.below(7) as usize] = true;
        }
        assert_eq!(seen, [true; 7]);
        assert_eq!(random.below(0), 0);
    }
}
