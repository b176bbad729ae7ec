use serde::{Deserialize, Serialize};

/// Parameters of how a migration comes to its end that does not by rounds alone: part of
/// [`MigrationParameters`](super::MigrationParameters). Those of QEMU's have its names, units, ranges and defaults. All of them may change
/// while a migration runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct EndParameters {
    /// With steps: too much is dirtied where it is more than this part of what is sent, in per cent, 1 to 100.
    pub throttle_trigger_threshold: u8,
    /// With steps: what is taken of vCPU time at first, in per cent, 1 to 99.
    pub cpu_throttle_initial: u8,
    /// With steps: what is added each time, in per cent, 1 to 99.
    pub cpu_throttle_increment: u8,
    /// With steps: add no more than is computed to be needed.
    pub cpu_throttle_tailslow: bool,
    /// Most that is taken of vCPU time, in per cent, `cpu_throttle_initial` to 99.
    pub max_cpu_throttle: u8,
    /// With the capability `dirty-limit`: MiB that each vCPU may dirty in a second, 1 or more.
    pub vcpu_dirty_limit: u64,
    /// With it: how often it is looked at what a vCPU has dirtied, in milliseconds, 1 to 1000.
    pub x_vcpu_dirty_limit_period: u64,
    /// How much is taken of vCPU time. Whimbrel's own.
    pub whimbrel_throttle: ThrottleWay,
    /// Seconds from its start in which a migration is to be over; 0 means no deadline. Whimbrel's own.
    pub whimbrel_deadline: u64,
    /// What may be used to be over by then, in this order, as [`MEANS`] with commas between them; or `none`. Whimbrel's own.
    pub whimbrel_means: String,
    /// Milliseconds that the downtime limit may be raised to by a deadline; less than the limit means not at all. Whimbrel's own.
    pub whimbrel_downtime_max: u64,
}

/// What may be used to be over by a deadline.
pub const MEANS: [&str; 3] = ["downtime", "throttle", "postcopy"];
/// Longest deadline: a year.
pub const MAX_DEADLINE_SECONDS: u64 = 31_536_000;

/// How much is taken of vCPU time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ThrottleWay {
    /// What is computed to be needed, from vCPUs that write.
    #[default]
    Computed,
    /// A little more each time, from all vCPUs alike, as in QEMU.
    Steps,
}

impl ThrottleWay {
    /// As it is written.
    pub const ALL: [(&str, Self); 2] = [("computed", Self::Computed), ("steps", Self::Steps)];

    /// The one that is written so.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, way)| way)
    }

    /// As it is written.
    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, way)| *way == self).map_or("", |(name, _)| name)
    }
}

impl Default for EndParameters {
    fn default() -> Self {
        Self {
            throttle_trigger_threshold: 50,
            cpu_throttle_initial: 20,
            cpu_throttle_increment: 10,
            cpu_throttle_tailslow: false,
            max_cpu_throttle: 99,
            vcpu_dirty_limit: 1,
            x_vcpu_dirty_limit_period: 1000,
            whimbrel_throttle: ThrottleWay::default(),
            whimbrel_deadline: 0,
            whimbrel_means: MEANS.join(","),
            whimbrel_downtime_max: 0,
        }
    }
}

impl EndParameters {
    /// Takes over what the change names, and leaves the rest.
    pub fn apply(&mut self, change: &EndChange) {
        fn set<T: Clone>(value: &mut T, new: &Option<T>) {
            if let Some(new) = new {
                value.clone_from(new);
            }
        }
        set(&mut self.throttle_trigger_threshold, &change.throttle_trigger_threshold);
        set(&mut self.cpu_throttle_initial, &change.cpu_throttle_initial);
        set(&mut self.cpu_throttle_increment, &change.cpu_throttle_increment);
        set(&mut self.cpu_throttle_tailslow, &change.cpu_throttle_tailslow);
        set(&mut self.max_cpu_throttle, &change.max_cpu_throttle);
        set(&mut self.vcpu_dirty_limit, &change.vcpu_dirty_limit);
        set(&mut self.x_vcpu_dirty_limit_period, &change.x_vcpu_dirty_limit_period);
        set(&mut self.whimbrel_throttle, &change.whimbrel_throttle);
        set(&mut self.whimbrel_deadline, &change.whimbrel_deadline);
        set(&mut self.whimbrel_means, &change.whimbrel_means);
        set(&mut self.whimbrel_downtime_max, &change.whimbrel_downtime_max);
    }

    /// What does not go together, in QEMU's words.
    ///
    /// # Errors
    /// Less may be taken of vCPU time than is to be taken at first.
    pub fn check(&self) -> Result<(), String> {
        if self.max_cpu_throttle >= self.cpu_throttle_initial {
            return Ok(());
        }
        Err("Parameter 'max_cpu_throttle' expects an integer in the range of cpu_throttle_initial to 99"
            .into())
    }

    /// The means that are allowed, in their order.
    pub fn means(&self) -> impl Iterator<Item = &str> {
        self.whimbrel_means.split(',').filter(|means| MEANS.contains(means))
    }

    /// Whether this is how means are written: each once at most, or `none`.
    pub fn are_means(text: &str) -> bool {
        let words: Vec<_> = text.split(',').collect();
        let is_once = |word: &&str| words.iter().filter(|other| *other == word).count() == 1;
        text == "none" || words.iter().all(|word| MEANS.contains(word) && is_once(word))
    }
}

/// What changes of [`EndParameters`]: members that are `None` stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields of EndParameters say it")]
pub struct EndChange {
    pub throttle_trigger_threshold: Option<u8>,
    pub cpu_throttle_initial: Option<u8>,
    pub cpu_throttle_increment: Option<u8>,
    pub cpu_throttle_tailslow: Option<bool>,
    pub max_cpu_throttle: Option<u8>,
    pub vcpu_dirty_limit: Option<u64>,
    pub x_vcpu_dirty_limit_period: Option<u64>,
    pub whimbrel_throttle: Option<ThrottleWay>,
    pub whimbrel_deadline: Option<u64>,
    pub whimbrel_means: Option<String>,
    pub whimbrel_downtime_max: Option<u64>,
}

/// What is taken of vCPU time in a migration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct ThrottleInfo {
    /// Per cent that are taken now from vCPUs that write.
    pub percentage: f64,
    /// Each vCPU.
    pub vcpus: Vec<VcpuThrottleInfo>,
}

/// What is taken of one vCPU's time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct VcpuThrottleInfo {
    /// Number of the vCPU.
    pub cpu_index: u32,
    /// Per cent that are taken now.
    pub percentage: f64,
    /// Milliseconds that were taken since the migration began.
    pub taken_ms: f64,
}

/// By when a migration is to be over, and how.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct DeadlineInfo {
    /// Seconds from its start.
    pub seconds: u64,
    /// Milliseconds that are left.
    pub left_ms: u64,
    /// Whether it is foretold to be over by then; once something is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_time: Option<bool>,
    /// What is done for that and why, as a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
}

/// Something that was decided.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct DecisionInfo {
    /// Milliseconds since the migration began.
    pub at_ms: u64,
    /// What, and why, as a sentence.
    pub text: String,
}
