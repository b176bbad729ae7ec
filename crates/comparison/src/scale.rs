//! The scenarios, and how they are made smaller for a machine: bandwidth and dirty rate by one factor, time by
//! another. What is a proportion stays as it is: dirty rate to bandwidth, and the working set to memory. Memory is
//! what the link carries in the time of a first pass, so that it shrinks by both.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// What is moved under which load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Scenario {
    /// A slow link: dirty rate to bandwidth as 500 to 1280.
    S1,
    /// A fast one, and a guest that is not busy: 1000 to 5120.
    S2,
    /// A fast one, and a guest that is: 4000 to 5120.
    S3,
}

impl Scenario {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::S1, Self::S2, Self::S3];

    /// Bytes that the guest dirties each second, at full size.
    #[must_use]
    pub fn dirty_rate(self) -> f64 {
        match self {
            Self::S1 => 500e6,
            Self::S2 => 1000e6,
            Self::S3 => 4000e6,
        }
    }

    /// Bytes that the link carries each second, at full size.
    #[must_use]
    pub fn bandwidth(self) -> f64 {
        if self == Self::S1 { 1280e6 } else { FASTEST }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// The link of S2 and S3 at full size, bytes per second.
const FASTEST: f64 = 5120e6;
/// Guest memory at full size, bytes.
const MEMORY: f64 = 300e9;
/// What of its memory a guest writes, again and again. Not published, but it follows: what multifd sent beyond the
/// memory (time by bandwidth) fits rounds that shrink from a working set of 22 to 54 GB.
const WORKING_SET: f64 = 1.0 / 8.0;
/// How much faster time goes by unless it is said.
const TIME: f64 = 1.0 / 20.0;
/// What of a link that is shaped by nobody the fastest scenario takes: the guest needs a core, and both ends, both
/// hosts' kernels and those who watch share the rest.
const OF_LINK: f64 = 0.25;
/// What of the memory that is there two machines may have.
const OF_MEMORY: f64 = 0.7;
/// A guest with less has no room for a working set.
const LEAST_MEMORY: u64 = 128 << 20;
/// Memory comes in pages of 2 MiB.
const PAGE: u64 = 2 << 20;
/// First passes that a mode has, and the seconds beside, until it is not suitable.
const PASSES: f64 = 6.0;
const BESIDE_S: f64 = 10.0;

/// How much smaller it is than at full size.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scale {
    /// Of bandwidth and of dirty rate, more than 0 and 1 at most.
    pub bandwidth: f64,
    /// Of the time that a first pass takes, more than 0 and 1 at most.
    pub time: f64,
}

/// What a machine has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    /// Bytes each second over one TCP connection on the link when nobody shapes it.
    pub link: f64,
    /// Bytes of memory that new processes can have.
    pub memory: u64,
    /// Cores.
    pub cores: usize,
}

/// What is measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// How much smaller it is.
    pub scale: Scale,
    /// Memory of the guest in bytes, a multiple of 2 MiB.
    pub memory: u64,
    /// What of it the guest writes, in bytes.
    pub work: u64,
    /// vCPUs, 1 to 64.
    pub cpus: u8,
    /// What guest memory is made of.
    pub backing: String,
    /// Longest downtime that is asked for, in milliseconds. It is what users feel, and so the same at every scale.
    pub downtime_limit_ms: u64,
    /// How often each is moved.
    pub repetitions: u32,
    /// What the link gives at its rate to what is in its frames, in bytes each second, of the scenarios that were
    /// measured.
    pub gives: Vec<(Scenario, f64)>,
}

/// A scale that does not fit a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScaleError {
    /// A guest would have too little memory.
    #[error("At this scale a guest has {} MiB of memory, and needs {} MiB: try a larger --scale", memory >> 20, LEAST_MEMORY >> 20)]
    GuestTooSmall {
        /// Of one guest, in bytes.
        memory: u64,
    },
    /// The host has too little.
    #[error(
        "At this scale two guests need {} MiB of memory, and this host has {} MiB for them: try a smaller --scale, or end something else",
        needed >> 20, available >> 20
    )]
    HostTooSmall {
        /// Of both guests, in bytes.
        needed: u64,
        /// What both may have, in bytes.
        available: u64,
    },
}

impl Scale {
    /// What fits a machine: the largest bandwidth that its link bears under load, and as much of the usual time as
    /// its memory allows.
    #[must_use]
    pub fn fitting(found: Found) -> Self {
        let bandwidth = (found.link * OF_LINK / FASTEST).clamp(1e-4, 1.0);
        // A part of a whole number is easier to think of.
        let bandwidth = 1.0 / (1.0 / bandwidth).ceil();
        let room = found.memory as f64 * OF_MEMORY / 2.0;
        let scale = Self { bandwidth, time: TIME }.at_least();
        Self { time: scale.time.min(room / (MEMORY * bandwidth)).max(1e-6), ..scale }
    }

    /// The same in a quarter of the time, as far as a guest has room for a working set then.
    #[must_use]
    pub fn quick(self) -> Self {
        let quick = Self { time: self.time / 4.0, ..self }.at_least();
        Self { time: quick.time.min(self.time), ..quick }
    }

    /// With so much time that a guest has room for a working set.
    fn at_least(self) -> Self {
        Self { time: self.time.max(LEAST_MEMORY as f64 / (MEMORY * self.bandwidth)), ..self }
    }

    /// Memory of the guest.
    #[must_use]
    pub fn memory(self) -> u64 {
        ((MEMORY * self.bandwidth * self.time) as u64).next_multiple_of(PAGE)
    }
}

impl Plan {
    /// The plan for a machine, at a scale.
    ///
    /// # Errors
    /// They do not fit.
    pub fn new(
        scale: Scale,
        found: Found,
        backing: &str,
        downtime_limit_ms: u64,
        repetitions: u32,
    ) -> Result<Self, ScaleError> {
        let memory = scale.memory();
        if memory < LEAST_MEMORY {
            return Err(ScaleError::GuestTooSmall { memory });
        }
        let needed = memory.saturating_mul(2);
        // What was fitted is rounded up.
        if needed as f64 > found.memory as f64 * OF_MEMORY + (2 * PAGE) as f64 {
            return Err(ScaleError::HostTooSmall {
                needed,
                available: (found.memory as f64 * OF_MEMORY) as u64,
            });
        }
        let cpus = (found.cores / 2).clamp(1, 64) as u8;
        let work = ((memory as f64 * WORKING_SET) as u64).next_multiple_of(PAGE);
        let backing = backing.to_owned();
        Ok(Self { scale, memory, work, cpus, backing, downtime_limit_ms, repetitions, gives: Vec::new() })
    }

    /// Bytes that the guest dirties each second.
    #[must_use]
    pub fn dirty_rate(&self, scenario: Scenario) -> u64 {
        (scenario.dirty_rate() * self.scale.bandwidth) as u64
    }

    /// Bytes that the link carries each second.
    #[must_use]
    pub fn bandwidth(&self, scenario: Scenario) -> u64 {
        (scenario.bandwidth() * self.scale.bandwidth) as u64
    }

    /// What the link gives in that scenario, in bytes each second; `None` where it was not measured.
    #[must_use]
    pub fn gives(&self, scenario: Scenario) -> Option<f64> {
        self.gives.iter().find(|(of, _)| *of == scenario).map(|(_, bytes)| *bytes)
    }

    /// Seconds that a first pass over all memory takes at least.
    #[must_use]
    pub fn first_pass_s(&self, scenario: Scenario) -> f64 {
        self.memory as f64 / self.bandwidth(scenario).max(1) as f64
    }

    /// Seconds after which a mode is not suitable.
    #[must_use]
    pub fn allowed_s(&self, scenario: Scenario) -> f64 {
        self.first_pass_s(scenario) * PASSES + BESIDE_S
    }
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |factor: f64| {
            let whole = 1.0 / factor;
            if (whole - whole.round()).abs() < 1e-6 {
                format!("1/{}", whole.round())
            } else {
                format!("1/{whole:.1}")
            }
        };
        write!(f, "{},{}", part(self.bandwidth), part(self.time))
    }
}

impl FromStr for Scale {
    type Err = String;

    /// `BANDWIDTH[,TIME]`, each as a part of one (`1/16`) or as a number (`0.05`).
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let factor = |text: &str| {
            let number = |text: &str| text.trim().parse::<f64>().ok();
            let value = match text.split_once('/') {
                Some((part, whole)) => number(part)? / number(whole)?,
                None => number(text)?,
            };
            (1e-4..=1.0).contains(&value).then_some(value)
        };
        let (bandwidth, time) = text.split_once(',').map_or((text, None), |(one, other)| (one, Some(other)));
        let time = time.map_or(Some(TIME), factor);
        factor(bandwidth).zip(time).map(|(bandwidth, time)| Self { bandwidth, time }).ok_or_else(|| {
            "not BANDWIDTH or BANDWIDTH,TIME, each from 0.0001 to 1 such as 1/16 or 0.05".to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Found = Found { link: 1.3e9, memory: 20 << 30, cores: 2 };

    #[test]
    fn a_small_machine_gets_a_small_part_in_the_same_proportions() {
        let scale = Scale::fitting(SMALL);
        assert_eq!(scale.to_string(), "1/16,1/20");
        let plan = Plan::new(scale, SMALL, "4 KiB pages", 300, 3).unwrap();
        assert_eq!((plan.memory >> 20, plan.work >> 20, plan.cpus), (896, 112, 1));
        for scenario in Scenario::ALL {
            let (full, ours) = (
                scenario.dirty_rate() / scenario.bandwidth(),
                plan.dirty_rate(scenario) as f64 / plan.bandwidth(scenario) as f64,
            );
            assert!((full - ours).abs() < 1e-6, "{scenario}: {full} {ours}");
        }
        let passes = Scenario::ALL.map(|scenario| plan.first_pass_s(scenario));
        assert!((passes[0] / passes[1] - 4.0).abs() < 1e-6, "as 5120 to 1280: {passes:?}");
    }

    #[test]
    fn little_memory_takes_time_off_and_too_little_is_refused() {
        let found = Found { memory: 1 << 30, ..SMALL };
        let scale = Scale::fitting(found);
        assert!(scale.time < TIME && scale.bandwidth == Scale::fitting(SMALL).bandwidth, "{scale}");
        assert!(Plan::new(scale, found, "", 300, 1).is_ok());
        let found = Found { memory: 256 << 20, ..SMALL };
        let error = Plan::new(Scale::fitting(found), found, "", 300, 1).unwrap_err();
        assert!(error.to_string().contains("--scale"), "{error}");
        assert!(matches!(error, ScaleError::GuestTooSmall { .. }), "{error}");
        let error = Plan::new("1/16,1".parse().unwrap(), SMALL, "", 300, 1).unwrap_err();
        assert!(matches!(error, ScaleError::HostTooSmall { .. }), "{error}");
    }

    #[test]
    fn a_large_machine_gets_no_more_than_all_of_it() {
        let found = Found { link: 1e12, memory: 2 << 40, cores: 256 };
        assert_eq!(Scale::fitting(found).bandwidth, 1.0);
        assert_eq!(Plan::new(Scale::fitting(found), found, "", 300, 1).unwrap().cpus, 64);
    }

    #[test]
    fn a_scale_is_read_as_it_is_written_and_what_is_none_is_refused() {
        let shown = |text: &str| text.parse::<Scale>().map(|scale| scale.to_string());
        assert_eq!(shown("1/16"), Ok("1/16,1/20".into()));
        assert_eq!(shown("0.1, 1/3"), Ok("1/10,1/3".into()));
        for wrong in ["", "0", "2", "1/0", "0/0", "-1/2", "1/16,", "1/16,0", "nan", "1/16,1/20,1"] {
            assert!(shown(wrong).is_err(), "{wrong}");
        }
    }
}
