use std::time::Duration;

use config::{Config, DirtyLogKind};
use migration::{ByWhen, DirtyLimit, Encodings, FixedCosts, Means, Params, Steps, Throttling};
use monitor::{
    CommandError,
    types::{
        Chooser, Compression, Digest, MigrationCapability, MigrationCapabilityStatus, MigrationParameters,
        Postcopy, ThrottleWay,
    },
};
use wire::Packing;

use super::{dirty_rate::without_rings, pinned::Pinned};

/// Page channels unless the user says otherwise: more than CPUs do not help, and four fill a fast network.
const DEFAULT_CHANNELS: usize = 4;

/// Parameters and capabilities of migration.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) parameters: MigrationParameters,
    pub(super) capabilities: Vec<MigrationCapability>,
    /// As many as this process may use, as it was at its start.
    processors: u16,
    /// Whether the machine's dirty log tells which vCPU writes a page.
    has_rings: bool,
    pinned: Pinned,
    /// What switchovers have cost so far in this process, if there were any.
    pub(super) fixed_costs: Option<FixedCosts>,
}

/// Capabilities that can be switched on and off.
/// Those of postcopy but the first change nothing: pages that the machine waits for always have a connection of their own, and how long
/// it waits is always measured.
const SWITCHABLE: [MigrationCapability; 10] = [
    MigrationCapability::AutoConverge,
    MigrationCapability::DirtyLimit,
    MigrationCapability::Events,
    MigrationCapability::PauseBeforeSwitchover,
    MigrationCapability::Multifd,
    MigrationCapability::PostcopyRam,
    MigrationCapability::PostcopyPreempt,
    MigrationCapability::PostcopyBlocktime,
    MigrationCapability::Xbzrle,
    MigrationCapability::ZeroCopySend,
];

/// Capabilities that every Whimbrel migration has: the destination always answers, acknowledges the switchover, and takes
/// disks late.
const ALWAYS_ON: [MigrationCapability; 3] = [
    MigrationCapability::ReturnPath,
    MigrationCapability::SwitchoverAck,
    MigrationCapability::LateBlockActivate,
];

impl Settings {
    /// The defaults, and what the command line says of encryption.
    pub(super) fn new(config: &Config) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let mut capabilities = ALWAYS_ON.to_vec();
        capabilities.push(MigrationCapability::Multifd);
        let mut parameters = MigrationParameters::new(cpus.min(DEFAULT_CHANNELS) as u8);
        parameters.tls_creds = config.tls().map(ToString::to_string).unwrap_or_default();
        parameters.tls_hostname = config.tls_hostname().unwrap_or_default().into();
        parameters.tls_authz = config.tls_authz().unwrap_or_default().into();
        let processors = u16::try_from(cpus).unwrap_or(u16::MAX);
        let pinned = Pinned::of_this_process();
        let has_rings = matches!(config.dirty_log(), DirtyLogKind::Ring(_));
        Self { parameters, capabilities, processors, has_rings, pinned, fixed_costs: None }
    }

    /// Switches capabilities, all or none of them.
    pub(super) fn switch(&mut self, wanted: &[MigrationCapabilityStatus]) -> Result<(), CommandError> {
        for MigrationCapabilityStatus { capability, state } in wanted {
            let possible = SWITCHABLE.contains(capability) || ALWAYS_ON.contains(capability) == *state;
            if !possible {
                let problem =
                    if *state { "is not supported by Whimbrel" } else { "is always on in Whimbrel" };
                return Err(CommandError::generic(format!("Capability '{capability}' {problem}")));
            }
        }
        let mut capabilities = self.capabilities.clone();
        for MigrationCapabilityStatus { capability, state } in wanted {
            capabilities.retain(|known| known != capability);
            if *state {
                capabilities.push(*capability);
            }
        }
        self.check(&self.parameters, &capabilities)?;
        self.capabilities = capabilities;
        Ok(())
    }

    /// Takes these parameters.
    pub(super) fn set(&mut self, parameters: MigrationParameters) -> Result<(), CommandError> {
        self.check(&parameters, &self.capabilities)?;
        self.parameters = parameters;
        Ok(())
    }

    /// The first parameter that both sides agree on when a migration begins, and that is another in `wanted`.
    pub(super) fn agreed_on_and_changed(&self, wanted: &MigrationParameters) -> Option<&'static str> {
        let now = &self.parameters;
        [
            ("multifd-channels", now.multifd_channels != wanted.multifd_channels),
            ("whimbrel-digest", now.whimbrel_digest != wanted.whimbrel_digest),
            ("multifd-compression", now.encoding.multifd_compression != wanted.encoding.multifd_compression),
            ("multifd-zstd-level", now.encoding.multifd_zstd_level != wanted.encoding.multifd_zstd_level),
            (
                "whimbrel-compression",
                now.encoding.whimbrel_compression != wanted.encoding.whimbrel_compression,
            ),
            ("xbzrle-cache-size", now.encoding.xbzrle_cache_size != wanted.encoding.xbzrle_cache_size),
            ("whimbrel-postcopy", now.whimbrel_postcopy != wanted.whimbrel_postcopy),
        ]
        .into_iter()
        .find_map(|(name, changed)| changed.then_some(name))
    }

    pub(super) fn has(&self, capability: MigrationCapability) -> bool {
        self.capabilities.contains(&capability)
    }

    /// What the engine is to work with.
    pub(super) fn params(&self) -> Params {
        let parameters = &self.parameters;
        let channels = channels(parameters, &self.capabilities);
        let zero_copy = self.has(MigrationCapability::ZeroCopySend);
        // That it is enough was made sure of when it was set.
        let pinned = if zero_copy { self.pinned.for_channels(channels).unwrap_or_default() } else { 0 };
        Params::default()
            .max_bandwidth(parameters.max_bandwidth)
            .downtime_limit(Duration::from_millis(parameters.downtime_limit))
            .switchover_bandwidth(parameters.avail_switchover_bandwidth)
            .channels(channels)
            .zero_copy(pinned)
            .pause_before_switchover(self.has(MigrationCapability::PauseBeforeSwitchover))
            .postcopy(self.postcopy())
            .max_postcopy_bandwidth(parameters.max_postcopy_bandwidth)
            .throttling(self.throttling())
            .by_when(self.by_when())
            .encodings(self.encodings())
            .digest(digest(parameters.whimbrel_digest))
    }
}

impl Settings {
    /// What cannot go together is refused when the second of it is set.
    fn check(
        &self,
        parameters: &MigrationParameters,
        capabilities: &[MigrationCapability],
    ) -> Result<(), CommandError> {
        let has = |capability| capabilities.contains(&capability);
        if parameters.whimbrel_digest == Digest::Full && has(MigrationCapability::PostcopyRam) {
            return Err(CommandError::generic(
                "Parameter 'whimbrel-digest' as 'full' and capability 'postcopy-ram' exclude each other: all memory is compared \
                 before the machine runs, and with postcopy it runs before. 'transfer' compares every page as it comes",
            ));
        }
        if has(MigrationCapability::DirtyLimit) && has(MigrationCapability::AutoConverge) {
            return Err(CommandError::generic(
                "dirty-limit conflicts with auto-converge: the one has each vCPU dirty no more than vcpu-dirty-limit, the other takes as \
                 much from them as is computed to be needed. Switch one of them off",
            ));
        }
        if has(MigrationCapability::DirtyLimit) && !self.has_rings {
            return Err(without_rings("Capability 'dirty-limit'"));
        }
        if has(MigrationCapability::ZeroCopySend) {
            let channels = channels(parameters, capabilities);
            self.pinned.for_channels(channels).map_err(CommandError::generic)?;
        }
        Ok(())
    }

    /// vCPUs are slowed down where a capability says so, or a deadline that may use it.
    fn throttling(&self) -> Throttling {
        let end = &self.parameters.end;
        if self.has(MigrationCapability::DirtyLimit) {
            return Throttling::Limit(DirtyLimit {
                bytes_per_second: end.vcpu_dirty_limit << 20,
                period: Duration::from_millis(end.x_vcpu_dirty_limit_period),
                trigger: end.throttle_trigger_threshold,
            });
        }
        let by_deadline = end.whimbrel_deadline > 0 && end.means().any(|means| means == "throttle");
        if !self.has(MigrationCapability::AutoConverge) && !by_deadline {
            return Throttling::Off;
        }
        match end.whimbrel_throttle {
            ThrottleWay::Computed => Throttling::Computed { max: f64::from(end.max_cpu_throttle) / 100.0 },
            ThrottleWay::Steps => Throttling::Steps(Steps {
                initial: end.cpu_throttle_initial,
                increment: end.cpu_throttle_increment,
                max: end.max_cpu_throttle,
                tailslow: end.cpu_throttle_tailslow,
                trigger: end.throttle_trigger_threshold,
            }),
        }
    }

    fn by_when(&self) -> Option<ByWhen> {
        let end = &self.parameters.end;
        let known = |name| Means::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, means)| means);
        (end.whimbrel_deadline > 0).then(|| ByWhen {
            deadline: Duration::from_secs(end.whimbrel_deadline),
            means: end.means().filter_map(known).collect(),
            longest_downtime: Duration::from_millis(end.whimbrel_downtime_max),
        })
    }

    fn encodings(&self) -> Encodings {
        let encoding = &self.parameters.encoding;
        Encodings {
            packing: match encoding.multifd_compression {
                Compression::None => None,
                Compression::Lz4 => Some(Packing::Lz4),
                Compression::Zstd => Some(Packing::Zstd),
            },
            zstd_level: encoding.multifd_zstd_level,
            deltas: self.has(MigrationCapability::Xbzrle),
            auto_packing: encoding.whimbrel_compression == Chooser::Auto,
            auto_deltas: encoding.whimbrel_compression == Chooser::Auto,
            processors: self.processors,
            cache_bytes: encoding.xbzrle_cache_size,
        }
    }

    fn postcopy(&self) -> migration::Postcopy {
        if !self.has(MigrationCapability::PostcopyRam) {
            return migration::Postcopy::Off;
        }
        match self.parameters.whimbrel_postcopy {
            Postcopy::Request => migration::Postcopy::OnRequest,
            Postcopy::Auto => migration::Postcopy::Auto,
            Postcopy::Immediate => migration::Postcopy::Immediate,
        }
    }
}

/// Without `multifd` there is one channel for pages.
fn channels(parameters: &MigrationParameters, capabilities: &[MigrationCapability]) -> u16 {
    if capabilities.contains(&MigrationCapability::Multifd) { parameters.multifd_channels.into() } else { 1 }
}

fn digest(digest: Digest) -> wire::Digest {
    match digest {
        Digest::Off => wire::Digest::Off,
        Digest::Transfer => wire::Digest::Transfer,
        Digest::Full => wire::Digest::Full,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        let raw = config::RawConfig::from_yaml("kernel: k", "test").unwrap();
        Settings::new(&Config::new(raw).unwrap())
    }

    fn switch(capability: MigrationCapability, state: bool) -> MigrationCapabilityStatus {
        MigrationCapabilityStatus { capability, state }
    }

    #[test]
    fn a_capability_that_is_not_there_changes_nothing() {
        let mut settings = settings();
        let wanted = [switch(MigrationCapability::Events, true), switch(MigrationCapability::XColo, true)];
        assert!(settings.switch(&wanted).unwrap_err().desc.contains("x-colo"));
        assert!(!settings.has(MigrationCapability::Events));
    }

    #[test]
    fn a_dirty_limit_needs_dirty_rings_and_goes_without_auto_converge() {
        let refused = settings().switch(&[switch(MigrationCapability::DirtyLimit, true)]).unwrap_err();
        assert!(refused.desc.contains("--dirty-log ring"), "{}", refused.desc);
        let raw = config::RawConfig::from_yaml("kernel: k\ndirty-log: ring", "test").unwrap();
        let mut settings = Settings::new(&Config::new(raw).unwrap());
        settings.switch(&[switch(MigrationCapability::DirtyLimit, true)]).unwrap();
        settings.parameters.end.vcpu_dirty_limit = 7;
        let limit = DirtyLimit { bytes_per_second: 7 << 20, period: Duration::from_secs(1), trigger: 50 };
        assert_eq!(settings.params().throttling, Throttling::Limit(limit));
        let refused = settings.switch(&[switch(MigrationCapability::AutoConverge, true)]).unwrap_err();
        assert!(refused.desc.starts_with("dirty-limit conflicts with auto-converge"), "{}", refused.desc);
        settings
            .switch(&[
                switch(MigrationCapability::DirtyLimit, false),
                switch(MigrationCapability::AutoConverge, true),
            ])
            .unwrap();
        assert!(matches!(settings.params().throttling, Throttling::Computed { .. }));
    }

    #[test]
    fn what_is_off_and_not_there_may_be_switched_off() {
        assert!(settings().switch(&[switch(MigrationCapability::PostcopyRam, false)]).is_ok());
    }

    #[test]
    fn what_excludes_what_is_refused_whichever_is_set_last_and_changes_nothing() {
        let postcopy = [switch(MigrationCapability::PostcopyRam, true)];
        let with = |digest| MigrationParameters { whimbrel_digest: digest, ..settings().parameters };
        let mut settings = settings();
        settings.set(with(Digest::Full)).unwrap();
        assert!(settings.switch(&postcopy).unwrap_err().desc.contains("exclude each other"));
        assert!(!settings.has(MigrationCapability::PostcopyRam));
        settings.set(with(Digest::Transfer)).unwrap();
        settings.switch(&postcopy).unwrap();
        assert!(settings.set(with(Digest::Full)).unwrap_err().desc.contains("exclude each other"));
        assert_eq!(settings.parameters.whimbrel_digest, Digest::Transfer);
    }

    #[test]
    fn without_multifd_there_is_one_channel() {
        let mut settings = settings();
        settings.switch(&[switch(MigrationCapability::Multifd, false)]).unwrap();
        assert_eq!(settings.params().channels, 1);
    }
}
