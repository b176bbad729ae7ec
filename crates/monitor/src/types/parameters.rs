use serde::{Deserialize, Serialize};

use super::{EncodingChange, EncodingParameters, EndChange, EndParameters};

/// The most channels that a migration may have.
pub const MAX_CHANNELS: u8 = 64;

/// The parameters of migration: what `query-migrate-parameters` returns. QEMU's names, units and ranges.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MigrationParameters {
    /// How the machine is announced to the network when it arrives.
    #[serde(flatten)]
    pub announce: AnnounceParameters,
    /// Bytes each second that all channels together may send; 0 means no limit. May change while a migration runs.
    pub max_bandwidth: u64,
    /// Milliseconds that the guest may stand still, 0 to 2 000 000. May change while a migration runs.
    pub downtime_limit: u64,
    /// Bytes each second to reckon with in the decision to switch over; 0 means: as measured.
    pub avail_switchover_bandwidth: u64,
    /// Connections that carry pages, 1 to [`MAX_CHANNELS`].
    pub multifd_channels: u8,
    /// Directory of the certificates that migrations are encrypted with; empty means in clear. (QEMU has the id of an object here.)
    pub tls_creds: String,
    /// Name that the peer's certificate must have; empty means the host name of the address.
    pub tls_hostname: String,
    /// Which sources may come, by names in their certificates; empty means none. (QEMU has the id of an object here.)
    pub tls_authz: String,
    /// Bytes each second that follow a machine that runs on the destination already; 0 means no limit. Those that it waits for come
    /// without a limit. May change while a migration runs.
    pub max_postcopy_bandwidth: u64,
    /// What is compared of guest memory before the machine runs on the destination. Whimbrel's own.
    pub whimbrel_digest: Digest,
    /// When the machine may run on the destination before its memory is there; with the capability `postcopy-ram`. Whimbrel's own.
    pub whimbrel_postcopy: Postcopy,
    /// How pages are encoded.
    #[serde(flatten)]
    pub encoding: EncodingParameters,
    /// How it comes to its end.
    #[serde(flatten)]
    pub end: EndParameters,
}

/// When a machine may run on the destination before its memory is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Postcopy {
    /// When `migrate-start-postcopy` says so, as in QEMU.
    #[default]
    Request,
    /// That, or when rounds of precopy get nowhere.
    Auto,
    /// From the start, without a round before.
    Immediate,
}

impl Postcopy {
    /// As it is written.
    pub const ALL: [(&str, Self); 3] =
        [("request", Self::Request), ("auto", Self::Auto), ("immediate", Self::Immediate)];

    /// The one that is written so.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, postcopy)| postcopy)
    }

    /// As it is written.
    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, postcopy)| *postcopy == self).map_or("", |(name, _)| name)
    }
}

/// What the two sides of a migration compare of guest memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Digest {
    /// Nothing.
    #[default]
    Off,
    /// Every page as it was sent with the page as it was placed: finds damage on the way.
    Transfer,
    /// That, and all memory of the stopped machine with what was sent, and of the destination with what was placed: finds also
    /// writes that the dirty log missed. It takes time while the machine is stopped.
    Full,
}

impl Digest {
    /// As it is written.
    pub const ALL: [(&str, Self); 3] =
        [("off", Self::Off), ("transfer", Self::Transfer), ("full", Self::Full)];

    /// The one that is written so.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, digest)| digest)
    }

    /// As it is written.
    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, digest)| *digest == self).map_or("", |(name, _)| name)
    }
}

impl MigrationParameters {
    /// QEMU's defaults, but for the bandwidth, which is not limited, and with this number of channels.
    pub fn new(multifd_channels: u8) -> Self {
        Self {
            announce: AnnounceParameters::default(),
            max_bandwidth: 0,
            downtime_limit: 300,
            avail_switchover_bandwidth: 0,
            multifd_channels,
            tls_creds: String::new(),
            tls_hostname: String::new(),
            tls_authz: String::new(),
            max_postcopy_bandwidth: 0,
            whimbrel_digest: Digest::default(),
            whimbrel_postcopy: Postcopy::default(),
            encoding: EncodingParameters::default(),
            end: EndParameters::default(),
        }
    }

    /// Takes over what the change names, and leaves the rest.
    pub fn apply(&mut self, change: &ParameterChange) {
        fn set<T: Copy>(value: &mut T, new: Option<T>) {
            *value = new.unwrap_or(*value);
        }
        set(&mut self.announce.initial, change.announce_initial);
        set(&mut self.announce.max, change.announce_max);
        set(&mut self.announce.rounds, change.announce_rounds);
        set(&mut self.announce.step, change.announce_step);
        set(&mut self.max_bandwidth, change.max_bandwidth);
        set(&mut self.downtime_limit, change.downtime_limit);
        set(&mut self.avail_switchover_bandwidth, change.avail_switchover_bandwidth);
        set(&mut self.multifd_channels, change.multifd_channels);
        set(&mut self.max_postcopy_bandwidth, change.max_postcopy_bandwidth);
        set(&mut self.whimbrel_digest, change.whimbrel_digest);
        set(&mut self.whimbrel_postcopy, change.whimbrel_postcopy);
        self.encoding.apply(change.encoding);
        self.end.apply(&change.end);
        let texts = [
            (&mut self.tls_creds, &change.tls_creds),
            (&mut self.tls_hostname, &change.tls_hostname),
            (&mut self.tls_authz, &change.tls_authz),
        ];
        for (value, new) in texts {
            if let Some(new) = new {
                value.clone_from(new);
            }
        }
    }
}

/// When packets that announce the machine are sent: the first after `initial` ms, each next one `step` ms later than the
/// one before took, at most `max` ms apart, `rounds` in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnounceParameters {
    /// Milliseconds before the first repetition, 0 to 100 000.
    #[serde(rename = "announce-initial")]
    pub initial: u64,
    /// Most milliseconds between two, 0 to 100 000.
    #[serde(rename = "announce-max")]
    pub max: u64,
    /// Number of packets, 0 to 1000.
    #[serde(rename = "announce-rounds")]
    pub rounds: u64,
    /// Milliseconds by which the pause grows, 1 to 10 000.
    #[serde(rename = "announce-step")]
    pub step: u64,
}

impl Default for AnnounceParameters {
    /// QEMU's defaults.
    fn default() -> Self {
        Self { initial: 50, max: 550, rounds: 5, step: 100 }
    }
}

/// What `migrate-set-parameters` changes: members that are `None` stay as they are. All values are in range when the
/// [`Handler`](crate::Handler) gets them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParameterChange {
    /// See [`AnnounceParameters::initial`].
    pub announce_initial: Option<u64>,
    /// See [`AnnounceParameters::max`].
    pub announce_max: Option<u64>,
    /// See [`AnnounceParameters::rounds`].
    pub announce_rounds: Option<u64>,
    /// See [`AnnounceParameters::step`].
    pub announce_step: Option<u64>,
    /// See [`MigrationParameters::max_bandwidth`].
    pub max_bandwidth: Option<u64>,
    /// See [`MigrationParameters::downtime_limit`].
    pub downtime_limit: Option<u64>,
    /// See [`MigrationParameters::avail_switchover_bandwidth`].
    pub avail_switchover_bandwidth: Option<u64>,
    /// See [`MigrationParameters::multifd_channels`].
    pub multifd_channels: Option<u8>,
    /// See [`MigrationParameters::tls_creds`].
    pub tls_creds: Option<String>,
    /// See [`MigrationParameters::tls_hostname`].
    pub tls_hostname: Option<String>,
    /// See [`MigrationParameters::tls_authz`].
    pub tls_authz: Option<String>,
    /// See [`MigrationParameters::max_postcopy_bandwidth`].
    pub max_postcopy_bandwidth: Option<u64>,
    /// See [`MigrationParameters::whimbrel_digest`].
    pub whimbrel_digest: Option<Digest>,
    /// See [`MigrationParameters::whimbrel_postcopy`].
    pub whimbrel_postcopy: Option<Postcopy>,
    /// See [`MigrationParameters::encoding`].
    pub encoding: EncodingChange,
    /// See [`MigrationParameters::end`].
    pub end: EndChange,
}
