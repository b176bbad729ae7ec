use serde::{Deserialize, Serialize};

/// Parameters of how pages are encoded to take less on the wire: part of [`MigrationParameters`](super::MigrationParameters). They
/// have QEMU's names, units, ranges and defaults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct EncodingParameters {
    /// How the pages of every batch are packed.
    pub multifd_compression: Compression,
    /// With `zstd`: its level, 0 to 20. 0 is zstd's own default.
    pub multifd_zstd_level: u8,
    /// With differences, as by the capability `xbzrle`: most bytes of the copies of pages that differences need, at least a page.
    pub xbzrle_cache_size: u64,
    /// Who decides on encodings that are not set. Whimbrel's own.
    pub whimbrel_compression: Chooser,
}

/// Who decides on encodings that are not set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Chooser {
    /// Every page channel, a few times a second, by what the network takes.
    Auto,
    /// Nobody: what is not set is not used.
    #[default]
    Off,
}

impl Chooser {
    /// As it is written.
    pub const ALL: [(&str, Self); 2] = [("auto", Self::Auto), ("off", Self::Off)];

    /// The one that is written so.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, chooser)| chooser)
    }

    /// As it is written.
    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, chooser)| *chooser == self).map_or("", |(name, _)| name)
    }
}

/// How pages are packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// By lz4: fast, and makes less of it. Whimbrel's own.
    Lz4,
    /// By Zstandard.
    Zstd,
}

/// Most that [`EncodingParameters::xbzrle_cache_size`] may be: 1 TiB.
pub const MAX_CACHE_BYTES: u64 = 1 << 40;
/// Least that it may be: a page.
pub const MIN_CACHE_BYTES: u64 = 4096;

impl Compression {
    /// As it is written.
    pub const ALL: [(&str, Self); 3] = [("none", Self::None), ("lz4", Self::Lz4), ("zstd", Self::Zstd)];

    /// The one that is written so.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, compression)| compression)
    }

    /// As it is written.
    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, compression)| *compression == self).map_or("", |(name, _)| name)
    }
}

impl Default for EncodingParameters {
    fn default() -> Self {
        Self {
            multifd_compression: Compression::None,
            multifd_zstd_level: 1,
            xbzrle_cache_size: 64 << 20,
            whimbrel_compression: Chooser::default(),
        }
    }
}

impl EncodingParameters {
    /// Takes over what the change names, and leaves the rest.
    pub fn apply(&mut self, change: EncodingChange) {
        let now = self.clone();
        *self = Self {
            multifd_compression: change.multifd_compression.unwrap_or(now.multifd_compression),
            multifd_zstd_level: change.multifd_zstd_level.unwrap_or(now.multifd_zstd_level),
            xbzrle_cache_size: change.xbzrle_cache_size.unwrap_or(now.xbzrle_cache_size),
            whimbrel_compression: change.whimbrel_compression.unwrap_or(now.whimbrel_compression),
        };
    }
}

/// What changes of [`EncodingParameters`]: members that are `None` stay as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields of EncodingParameters say it")]
pub struct EncodingChange {
    pub multifd_compression: Option<Compression>,
    pub multifd_zstd_level: Option<u8>,
    pub xbzrle_cache_size: Option<u64>,
    pub whimbrel_compression: Option<Chooser>,
}

/// What differences have done in a migration: QEMU's `XBZRLECacheStats`. Bytes unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct XbzrleCacheStats {
    /// Most that the copies may take.
    pub cache_size: u64,
    /// Sent as differences.
    pub bytes: u64,
    /// Pages sent as differences.
    pub pages: u64,
    /// Pages that there was no copy of.
    pub cache_miss: u64,
    /// The part of the pages looked up that there was no copy of, 0 to 1.
    pub cache_miss_rate: f64,
    /// How many times shorter differences are than their pages.
    pub encoding_rate: f64,
    /// Pages of which too much had changed.
    pub overflow: u64,
}

/// What packing has done in a migration: QEMU's `CompressionStats`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct CompressionStats {
    /// Pages that were packed.
    pub pages: u64,
    /// How often no thread was free to pack. Always 0: every channel packs what it sends.
    pub busy: u64,
    /// Likewise.
    pub busy_rate: f64,
    /// Bytes of what was packed.
    pub compressed_size: u64,
    /// How many times shorter that is than before.
    pub compression_rate: f64,
}
