//! What a switchover costs when nothing is left to send.

use std::time::Duration;

use crate::{Advice, Time};

/// Costs of a switchover that do not depend on how much memory is left.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct FixedCosts {
    /// Stopping vCPUs and quiescing devices.
    pub stop: Duration,
    /// Saving device states, which is done while the last pages are sent.
    pub save: Duration,
    /// Loading device states.
    pub load: Duration,
    /// Starting the machine.
    pub start: Duration,
    /// Writing to the disks what is not on stable storage when the machine stops. Measured all the time.
    pub flush: Duration,
    /// One round trip on the control connection; a switchover needs two (complete → ready, go → running).
    pub round_trip: Duration,
}

/// The downtime limit is below what a switchover costs when nothing is left to send.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Obstacle {
    /// What it costs, as far as that is believed.
    pub fixed: Duration,
    /// When it is believed to be within the limit, since the attempt began; `None` if never.
    pub until: Option<Time>,
}

/// After so long, half of what the last switchover cost beyond the guess is still believed, where it stands in the way.
const BELIEF_HALF_LIFE: Duration = Duration::from_secs(5);

impl Default for FixedCosts {
    /// The guess for a machine with one vCPU.
    fn default() -> Self {
        Self::guess(1)
    }
}

impl FixedCosts {
    /// What a switchover of a machine with so many vCPUs costs on an ordinary host, where none was measured yet; a little more than that.
    /// Each vCPU is stopped, saved, loaded and started.
    #[must_use]
    pub fn guess(vcpus: u8) -> Self {
        let cost = |alone, each| Duration::from_micros(alone + each * u64::from(vcpus));
        Self {
            stop: cost(300, 50),
            save: cost(300, 100),
            load: cost(600, 150),
            start: cost(200, 50),
            flush: Duration::ZERO,
            // The handshake measures it before it is of any use.
            round_trip: Duration::from_micros(200),
        }
    }

    /// All of them together, one after the other.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.on_the_hosts() + self.now()
    }

    /// All of them, as far as they are believed `elapsed` after the attempt began.
    ///
    /// What the hosts do at a switchover was measured at the last one, and is only measured again at the next. If it alone is over
    /// the limit no round helps, and a single switchover on a host that was busy would keep the machine from ever moving. So
    /// there it is believed less and less, down to the guess that an attempt without a past begins with. The round trip is
    /// measured all the time, and so is what the disks take.
    pub(crate) fn believed(&self, limit: Duration, elapsed: Duration) -> Duration {
        if self.total() <= limit {
            return self.total();
        }
        let hosts = self.on_the_hosts();
        let guess = Self::default().on_the_hosts().min(hosts);
        let belief = 0.5_f64.powf(elapsed.as_secs_f64() / BELIEF_HALF_LIFE.as_secs_f64());
        guess + (hosts - guess).mul_f64(belief) + self.now()
    }

    /// The costs to assume after an attempt for which `self` was assumed, and in which `measured` was found. What was cheaper than
    /// assumed is taken as it is. What was dearer is only half believed: once may be chance.
    #[must_use]
    pub fn learn(&self, measured: &Self) -> Self {
        let learn = |assumed: Duration, measured: Duration| measured.min((assumed + measured) / 2);
        Self {
            stop: learn(self.stop, measured.stop),
            save: learn(self.save, measured.save),
            load: learn(self.load, measured.load),
            start: learn(self.start, measured.start),
            // Measured anew by every attempt, many times.
            flush: Duration::ZERO,
            round_trip: measured.round_trip,
        }
    }

    /// What keeps a switchover from being within `limit`, `elapsed` after the attempt began, however little is left to send.
    #[must_use]
    pub fn obstacle(&self, limit: Duration, elapsed: Time) -> Option<Obstacle> {
        let fixed = self.believed(limit, elapsed);
        if fixed <= limit {
            return None;
        }
        let hosts = self.on_the_hosts();
        let guess = Self::default().on_the_hosts().min(hosts);
        let room = limit.saturating_sub(guess + self.now());
        let half_lives = ((hosts - guess).as_secs_f64() / room.as_secs_f64()).log2();
        let until = BELIEF_HALF_LIFE.as_secs_f64() * half_lives;
        Some(Obstacle {
            fixed,
            until: (!room.is_zero()).then(|| Duration::from_secs_f64(until.clamp(0.0, 1e6))),
        })
    }

    /// What is as it was just measured.
    fn now(&self) -> Duration {
        self.flush + 2 * self.round_trip
    }

    fn on_the_hosts(&self) -> Duration {
        self.stop + self.save + self.load + self.start
    }
}

impl Obstacle {
    /// In a sentence for people.
    #[must_use]
    pub fn reason(&self, limit: Duration) -> String {
        let (limit, fixed) = (ms(limit), ms(self.fixed));
        let sentence = format!(
            "The downtime limit ({limit:.0} ms) is below the fixed cost of a switchover here ({fixed:.1} ms), however little is \
             left to send"
        );
        match self.until {
            Some(until) => format!(
                "{sentence}: this was measured once, is believed less as time passes, and is tried again {:.0} s after the start",
                until.as_secs_f64().ceil()
            ),
            None => sentence,
        }
    }

    /// What people can do about it.
    #[must_use]
    pub fn advice(&self) -> Advice {
        // Some room for what is left to send, in whole milliseconds.
        let enough = (1.25 * ms(self.fixed)).ceil() + 1.0;
        Advice::RaiseDowntimeLimit { enough: Duration::from_millis(enough as u64) }
    }
}

pub(crate) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(300);

    #[test]
    fn a_switchover_that_was_dear_once_is_half_believed_and_a_cheap_one_wholly() {
        let assumed = FixedCosts { load: Duration::from_millis(2), ..FixedCosts::default() };
        let measured = FixedCosts { load: Duration::from_secs(2), stop: Duration::ZERO, ..assumed };
        let learnt = assumed.learn(&measured);
        assert_eq!((learnt.load, learnt.stop), (Duration::from_millis(1001), Duration::ZERO));
    }

    #[test]
    fn what_the_disks_take_now_is_foretold_and_does_not_fade_as_a_guess_does() {
        let flush = Duration::from_secs(2);
        let fixed = FixedCosts { flush, ..FixedCosts::default() };
        assert_eq!(fixed.total(), FixedCosts::default().total() + flush);
        let later = Duration::from_secs(3600);
        assert!(fixed.believed(LIMIT, later) >= flush);
        let obstacle = fixed.obstacle(LIMIT, later).unwrap();
        assert_eq!(obstacle.until, None, "no time mends that");
        assert_eq!(fixed.learn(&fixed).flush, Duration::ZERO, "the next attempt measures it anew");
    }

    #[test]
    fn more_vcpus_are_foretold_to_take_longer() {
        let ms = |vcpus| FixedCosts::guess(vcpus).total().as_secs_f64() * 1e3;
        // As measured on two cores, with nothing left to send: 1.7 ms with 1 vCPU, 11 ms with 32.
        assert!(
            (1.7..2.0 * 1.7).contains(&ms(1)) && (11.0..2.0 * 11.0).contains(&ms(32)),
            "{} {}",
            ms(1),
            ms(32)
        );
    }

    #[test]
    fn it_is_told_when_a_cost_that_was_measured_once_stops_being_in_the_way() {
        let fixed = FixedCosts { load: Duration::from_secs(3), ..FixedCosts::default() };
        let until = fixed.obstacle(LIMIT, Duration::ZERO).unwrap().until.unwrap();
        assert!(fixed.obstacle(LIMIT, until - Duration::from_millis(10)).is_some());
        assert_eq!(fixed.obstacle(LIMIT, until + Duration::from_millis(10)), None);
    }

    #[test]
    fn a_limit_below_what_every_switchover_costs_is_named_with_what_to_raise() {
        let limit = Duration::from_millis(1);
        let obstacle = FixedCosts::default().obstacle(limit, Duration::from_secs(3600)).unwrap();
        assert_eq!(obstacle.until, None);
        let reason = obstacle.reason(limit);
        assert!(reason.contains("(1 ms) is below the fixed cost of a switchover here (2.1 ms)"), "{reason}");
        assert_eq!(obstacle.advice(), Advice::RaiseDowntimeLimit { enough: Duration::from_millis(4) });
    }
}
