use faults::{Draw, Fault, Random, What};

use super::arguments::{Arguments, Digest, Encrypted};

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
    /// By TLS.
    pub(super) encrypted: bool,
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
            Encrypted::Chance => {
                Random::new(!seed).below(3) == 0 && arguments.faults.iter().all(Fault::strikes_encrypted)
            }
            Encrypted::On => true,
            Encrypted::Off => false,
        };
        let drawn = Draw { slow: arguments.slow, encrypted }.faults(&mut random);
        let faults = if arguments.faults.is_empty() { drawn } else { arguments.faults.clone() };
        let flips = faults.iter().any(|fault| matches!(fault.what, What::Flip(_)));
        let some = [(2, "transfer"), (1, "full")];
        let (found, by_chance) = (random.weighted(&some), random.weighted(&[(3, "off"), some[0], some[1]]));
        Self {
            seed,
            channels: random.between(1, 4) as u8,
            digest: match arguments.digest {
                Digest::Needed if flips && !encrypted => found.unwrap_or("full"),
                Digest::Needed => by_chance.unwrap_or("full"),
                Digest::On => found.unwrap_or("full"),
                Digest::Off => "off",
            },
            bandwidth: if random.below(5) == 0 { random.between(40, 200) * 1_000_000 } else { 0 },
            encrypted,
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
        if self.encrypted {
            text += ", encrypted";
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
