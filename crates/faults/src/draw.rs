//! Faults by chance.

use std::time::Duration;

use crate::{Connections, Edge, Fault, FrameName, Moment, Phase, Place, Side, Way, What};

/// Numbers that look random, the same for the same seed (SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number
/// generators", 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The numbers of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(end.max(1))) >> 64) as u64
    }

    /// A number from the range, its end included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// One of them, each as likely as its weight says. The last if no weight is above 0.
    pub fn weighted<T: Copy>(&mut self, choices: &[(u32, T)]) -> Option<T> {
        let mut left = self.below(choices.iter().map(|(weight, _)| u64::from(*weight)).sum());
        for &(weight, choice) in choices {
            if left < u64::from(weight) {
                return Some(choice);
            }
            left -= u64::from(weight);
        }
        choices.last().map(|(_, choice)| *choice)
    }
}

/// How faults are drawn.
#[derive(Clone, Copy, Debug)]
pub struct Draw {
    /// Weight of harm that nobody notices for half a minute, such as a connection that is dead and does not say so; other kinds
    /// have weights of 20 to 140.
    pub slow: u32,
    /// Whether the connections are encrypted. Places are bytes and phases then, and the few frames that are known by their turn and
    /// length.
    pub encrypted: bool,
    /// Whether the machine's memory follows it: most faults come to that then.
    pub postcopy: bool,
}

impl Default for Draw {
    fn default() -> Self {
        Self { slow: 8, encrypted: false, postcopy: false }
    }
}

/// Kinds of places.
#[derive(Clone, Copy)]
enum Target {
    /// A frame of this name: where, and the highest number of it that is likely to come.
    Frame(Connections, FrameName, u64),
    /// A byte of a connection, up to this one.
    Byte(Connections, Way, u64),
    /// A byte of those that pass in a phase, up to this one.
    Phase(Connections, Way, Phase, u64),
}

use Connections::{Any, Ask, Channels, Control, Urgent};
use FrameName as F;
use Phase as P;
use Way::{ToDestination, ToSource};

/// Kinds of places, each with its weight.
type Targets = &'static [(u32, Target)];

/// How likely each place is. The hand-over, which takes a thousandth of a migration's time, has a third of it.
const TARGETS: Targets = &[
    (30, Target::Frame(Control, F::Greeting, 2)),
    (35, Target::Frame(Control, F::Hello, 1)),
    (35, Target::Frame(Control, F::Accept, 1)),
    (35, Target::Frame(Channels, F::Greeting, 4)),
    (30, Target::Frame(Control, F::ChannelsOpen, 1)),
    (90, Target::Frame(Channels, F::Pages, 12)),
    (60, Target::Frame(Channels, F::RoundEnd, 6)),
    (60, Target::Frame(Control, F::Switchover, 1)),
    (60, Target::Frame(Channels, F::LastPages, 3)),
    (60, Target::Frame(Channels, F::LastRoundEnd, 4)),
    (70, Target::Frame(Control, F::Device, 8)),
    (70, Target::Frame(Control, F::Complete, 1)),
    (90, Target::Frame(Control, F::Ready, 1)),
    (110, Target::Frame(Control, F::Go, 1)),
    (110, Target::Frame(Control, F::Running, 1)),
    (35, Target::Frame(Control, F::Bye, 1)),
    (10, Target::Frame(Any, F::Ping, 1)),
    (20, Target::Byte(Control, ToDestination, 16_000)),
    (20, Target::Byte(Control, ToSource, 300)),
    (40, Target::Byte(Channels, ToDestination, 6 << 20)),
];

/// Places that only a source which has to ask comes to.
const ASKING: Targets = &[
    (20, Target::Frame(Ask, F::Greeting, 2)),
    (40, Target::Frame(Ask, F::Ask, 1)),
    (30, Target::Frame(Ask, F::Running, 1)),
    (30, Target::Frame(Ask, F::NotRunning, 1)),
    (20, Target::Frame(Ask, F::Bye, 1)),
];

/// The same on encrypted connections.
const ENCRYPTED: Targets = &[
    (50, Target::Phase(Control, ToDestination, P::Handshake, 3000)),
    (50, Target::Phase(Control, ToSource, P::Handshake, 2000)),
    (40, Target::Phase(Channels, ToDestination, P::Handshake, 1600)),
    (30, Target::Phase(Channels, ToSource, P::Handshake, 1200)),
    (130, Target::Phase(Channels, ToDestination, P::Rounds, 4 << 20)),
    (10, Target::Phase(Control, ToDestination, P::Rounds, 60)),
    (10, Target::Phase(Control, ToSource, P::Rounds, 60)),
    (40, Target::Frame(Control, F::Switchover, 1)),
    (80, Target::Phase(Channels, ToDestination, P::Switchover, 40_000)),
    (120, Target::Phase(Control, ToDestination, P::Switchover, 8000)),
    (80, Target::Frame(Control, F::Ready, 1)),
    (90, Target::Frame(Control, F::Go, 1)),
    (90, Target::Frame(Control, F::Running, 1)),
    (30, Target::Phase(Control, ToDestination, P::HandOver, 60)),
    (30, Target::Phase(Control, ToSource, P::HandOver, 120)),
    (35, Target::Frame(Control, F::Bye, 1)),
    (20, Target::Byte(Control, ToDestination, 12_000)),
    (20, Target::Byte(Control, ToSource, 2500)),
    (40, Target::Byte(Channels, ToDestination, 6 << 20)),
];

/// Places on encrypted connections that only a source which has to ask comes to.
const ENCRYPTED_ASKING: Targets = &[
    (40, Target::Phase(Ask, ToDestination, P::Asking, 2000)),
    (40, Target::Phase(Ask, ToSource, P::Asking, 1600)),
    (20, Target::Frame(Ask, F::Bye, 1)),
];

/// Places that only a machine comes to whose memory follows it.
const POSTCOPY: Targets = &[
    (30, Target::Frame(Urgent, F::Greeting, 2)),
    (50, Target::Frame(Control, F::Missing, 2)),
    (40, Target::Frame(Control, F::Complete, 1)),
    (40, Target::Frame(Control, F::Ready, 1)),
    (60, Target::Frame(Control, F::Go, 1)),
    (60, Target::Frame(Control, F::Running, 1)),
    (160, Target::Frame(Channels, F::Pushed, 20)),
    (100, Target::Frame(Urgent, F::Request, 20)),
    (100, Target::Frame(Urgent, F::Pushed, 20)),
    (70, Target::Frame(Control, F::Whole, 1)),
    (40, Target::Frame(Control, F::Bye, 1)),
    (20, Target::Byte(Urgent, ToSource, 400)),
    (40, Target::Byte(Channels, ToDestination, 6 << 20)),
];

/// The same on encrypted connections, of which nobody tells which one is urgent.
const ENCRYPTED_POSTCOPY: Targets = &[
    (60, Target::Frame(Control, F::Go, 1)),
    (60, Target::Frame(Control, F::Running, 1)),
    (60, Target::Phase(Control, ToSource, P::HandOver, 400)),
    (60, Target::Phase(Channels, ToSource, P::HandOver, 2000)),
    (200, Target::Phase(Channels, ToDestination, P::HandOver, 4 << 20)),
    (60, Target::Frame(Control, F::Bye, 1)),
    (40, Target::Byte(Channels, ToDestination, 6 << 20)),
];

/// Places that only a source comes to which finds its destination again.
const RECOVERING: Targets = &[
    (20, Target::Frame(Ask, F::Greeting, 2)),
    (40, Target::Frame(Ask, F::Ask, 1)),
    (40, Target::Frame(Ask, F::Running, 1)),
    (40, Target::Frame(Any, F::Recover, 1)),
    (40, Target::Frame(Any, F::Missing, 4)),
    (40, Target::Frame(Any, F::Recovering, 1)),
    (30, Target::Frame(Channels, F::Greeting, 8)),
    (30, Target::Frame(Urgent, F::Greeting, 4)),
    (60, Target::Frame(Channels, F::Pushed, 40)),
    (40, Target::Frame(Any, F::Whole, 1)),
];

/// Of a hundred faults of a machine whose memory follows, how many come to what it has in common with others.
const IN_COMMON: u64 = 30;

impl Draw {
    /// One fault, or two: a second one where the first leaves something to be harmed.
    pub fn faults(&self, random: &mut Random) -> Vec<Fault> {
        let (targets, asking) = self.places(random);
        let first = self.fault(random, targets);
        let mut faults = vec![first];
        let is_hand_over =
            matches!(
                first.place.moment,
                Moment::Frame { name: F::Ready | F::Go | F::Running | F::Bye, .. }
                    | Moment::Phase(_, P::HandOver, _)
            ) || matches!(first.place.moment, Moment::Frame { name: F::Pushed | F::Request | F::Whole, .. });
        if is_hand_over && random.below(100) < 30 {
            faults.push(self.fault(random, asking));
        } else if random.below(100) < 8 {
            faults.push(self.fault(random, targets));
        }
        faults
    }

    /// Where the first fault comes, and where a second one may.
    fn places(&self, random: &mut Random) -> (Targets, Targets) {
        let in_common = !self.postcopy || random.below(100) < IN_COMMON;
        match (self.encrypted, in_common) {
            (false, true) => (TARGETS, ASKING),
            (true, true) => (ENCRYPTED, ENCRYPTED_ASKING),
            (false, false) => (POSTCOPY, RECOVERING),
            (true, false) => (ENCRYPTED_POSTCOPY, ENCRYPTED_ASKING),
        }
    }

    fn fault(&self, random: &mut Random, targets: &[(u32, Target)]) -> Fault {
        let what = self.what(random);
        // The lists are not empty.
        let target = random.weighted(targets).unwrap_or(Target::Frame(Control, F::Go, 1));
        let place = match target {
            Target::Byte(connections, way, most) => {
                Place { connections, moment: Moment::Byte(way, random.below(most)) }
            }
            Target::Phase(connections, way, phase, most) => {
                Place { connections, moment: Moment::Phase(way, phase, random.below(most)) }
            }
            Target::Frame(connections, name, most) => {
                // Small numbers are the likelier to come.
                let most = random.between(1, most);
                let nth = random.between(1, most) as u32;
                let within = if matches!(what, What::Flip(_)) { 90 } else { 25 };
                let edge = match random.below(100) {
                    chance if chance < within => Edge::In(random.below(1 << 21)),
                    chance if chance % 2 == 0 => Edge::Before,
                    _ => Edge::After,
                };
                Place { connections, moment: Moment::Frame { edge, name, nth } }
            }
        };
        Fault { what, place }
    }

    fn what(&self, random: &mut Random) -> What {
        let mut millis = |low, high| Duration::from_millis(random.between(low, high));
        let (short, stall, outage) = (millis(1, 20), millis(20, 1500), millis(200, 2500));
        let freeze = millis(20, 1500);
        let bit = random.below(8) as u8;
        let choices = [
            (120, What::Cut),
            (100, What::Reset),
            (50, What::HalfCut),
            (50, What::CutAll),
            (50, What::ResetAll),
            (100, What::Stall(stall)),
            (40, What::StallAll(stall)),
            (self.slow, What::BlackHole),
            (self.slow, What::BlackHoleAll),
            (40, What::Delay(short)),
            (140, What::Flip(bit)),
            (70, What::Kill(Side::Source)),
            (90, What::Kill(Side::Destination)),
            (40, What::Freeze(Side::Source, freeze)),
            (40, What::Freeze(Side::Destination, freeze)),
            (40, What::Outage(outage)),
        ];
        random.weighted(&choices).unwrap_or(What::Cut)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_faults() {
        let draw = |seed| Draw::default().faults(&mut Random::new(seed));
        assert!((0..100).all(|seed| draw(seed) == draw(seed)));
        assert!((0..100).any(|seed| draw(seed) != draw(seed + 1)));
    }

    #[test]
    fn every_kind_of_harm_comes_to_every_phase() {
        for (encrypted, postcopy) in [(false, false), (true, false), (false, true)] {
            let mut seen = HashSet::new();
            for seed in 0..40_000 {
                let draw = Draw { encrypted, postcopy, ..Draw::default() };
                for fault in draw.faults(&mut Random::new(seed)) {
                    match fault.place.moment {
                        Moment::Frame { name, .. } => seen.insert((name.phase(), fault.what.kind())),
                        Moment::Phase(_, phase, _) => seen.insert((phase, fault.what.kind())),
                        _ => false,
                    };
                }
            }
            // Pages follow a machine only where that was asked for.
            let phases = Phase::ALL.len() - usize::from(!postcopy);
            assert_eq!(seen.len(), phases * 16, "{seen:?}");
        }
    }
}
