use faults::{Draw, Fault, Random, What};

use super::arguments::{Arguments, Choice, Digest};

/// What one attempt is made of. The same seed and arguments make the same scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scenario {
    pub(super) seed: u64,
    pub(super) faults: Vec<Fault>,
    /// Page channels.
    pub(super) channels: u8,
    /// What is compared of memory: the parameter `whimbrel-digest`.
    pub(super) digest: &'static str,
    /// Bytes each second, 0 for no limit. A limit makes more rounds.
    pub(super) bandwidth: u64,
    /// How pages are packed: the parameter `multifd-compression`.
    pub(super) packing: &'static str,
    /// Pages go as differences: the capability `xbzrle`.
    pub(super) deltas: bool,
    /// vCPUs are slowed down while rounds are sent.
    pub(super) throttles: bool,
    /// By TLS.
    pub(super) encrypted: bool,
    /// The machine runs before its memory is there, so many milliseconds after the beginning; 0 is before the first page.
    pub(super) postcopy_after: Option<u64>,
    /// Bytes each second that follow it, 0 for no limit.
    pub(super) push_bandwidth: u64,
    /// Over a unix socket instead of TCP.
    pub(super) unix: bool,
    /// Milliseconds after which the operator cancels.
    pub(super) cancel_after: Option<u64>,
    /// Whether the sides have to notice a dead connection by themselves, for as long as that takes.
    pub(super) patient: bool,
}

impl Scenario {
    pub(super) fn new(seed: u64, arguments: &Arguments) -> Self {
        let mut random = Random::new(seed);
        let encrypted = match arguments.tls {
            // Numbers of its own: what else is drawn is the same in clear and encrypted.
            Choice::Chance => {
                Random::new(!seed).below(3) == 0 && arguments.faults.iter().all(Fault::strikes_encrypted)
            }
            Choice::On => true,
            Choice::Off => false,
        };
        // These too.
        let mut follows = Random::new(seed.rotate_left(32));
        let wanted = match arguments.postcopy {
            Choice::Chance => follows.below(3) == 0,
            Choice::On => true,
            Choice::Off => false,
        };
        let draw = |postcopy, random: &mut Random| {
            let drawn = Draw { slow: arguments.slow, encrypted, postcopy }.faults(random);
            if arguments.faults.is_empty() { drawn } else { arguments.faults.clone() }
        };
        let flips = |faults: &[Fault]| faults.iter().any(|fault| matches!(fault.what, What::Flip(_)));
        let faults = draw(wanted, &mut random);
        let (postcopy, flips) = (wanted, flips(&faults));
        // And these.
        let mut slows = Random::new(seed.rotate_left(16));
        let throttles = slows.below(4) == 0;
        // And these.
        let mut encodes = Random::new(seed.rotate_left(48));
        let packings = [(2, "none"), (1, "lz4"), (1, "zstd")];
        let some = [(2, "transfer"), (1, "full")];
        let (found, by_chance) = (random.weighted(&some), random.weighted(&[(3, "off"), some[0], some[1]]));
        Self {
            seed,
            channels: random.between(1, 4) as u8,
            digest: match arguments.digest {
                Digest::Needed if postcopy && flips && !encrypted => "transfer",
                Digest::Needed if postcopy => {
                    if follows.below(3) == 0 {
                        "transfer"
                    } else {
                        "off"
                    }
                }
                Digest::On if postcopy => "transfer",
                Digest::Needed if flips && !encrypted => found.unwrap_or("full"),
                Digest::Needed => by_chance.unwrap_or("full"),
                Digest::On => found.unwrap_or("full"),
                Digest::Off => "off",
            },
            bandwidth: match random.below(5) {
                0 => random.between(40, 200) * 1_000_000,
                // There must be rounds for it.
                _ if throttles => slows.between(20, 60) * 1_000_000,
                _ => 0,
            },
            packing: encodes.weighted(&packings).unwrap_or("none"),
            deltas: encodes.below(3) == 0,
            throttles,
            encrypted,
            postcopy_after: postcopy.then(|| follows.below(2) * follows.below(200)),
            push_bandwidth: if follows.below(3) == 0 { 0 } else { follows.between(4, 60) * 1_000_000 },
            unix: random.below(8) == 0,
            cancel_after: (random.below(25) == 0).then(|| random.below(150)),
            patient: random.below(4) == 0,
            faults,
        }
    }

    /// The faults as they are typed.
    pub(super) fn text(&self) -> String {
        self.faults.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    /// All of it, on a line.
    pub(super) fn describe(&self) -> String {
        let mut text = format!("{:016x} {}, {} channels", self.seed, self.text(), self.channels);
        if self.digest != "off" {
            text += &format!(", digest {}", self.digest);
        }
        if self.bandwidth > 0 {
            text += &format!(", {} MB/s", self.bandwidth / 1_000_000);
        }
        if self.packing != "none" {
            text += &format!(", {}", self.packing);
        }
        if self.deltas {
            text += ", differences";
        }
        if self.throttles {
            text += ", slowed down";
        }
        if self.encrypted {
            text += ", encrypted";
        }
        if let Some(ms) = self.postcopy_after {
            text += &format!(", postcopy after {ms} ms");
            if self.push_bandwidth > 0 {
                text += &format!(" at {} MB/s", self.push_bandwidth / 1_000_000);
            }
        }
        if self.unix {
            text += ", unix socket";
        }
        if let Some(ms) = self.cancel_after {
            text += &format!(", cancelled after {ms} ms");
        }
        text
    }
}

/// The seed of attempt number `index`.
pub(super) fn seed_of(seed: u64, index: u64) -> u64 {
    Random::new(seed ^ index.wrapping_mul(0xd134_2543_de82_ef95)).next_u64()
}
