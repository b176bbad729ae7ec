//! Parameters of how pages are encoded.

use std::ops::RangeInclusive;

use super::arguments::{Arguments, in_range};
use crate::{
    CommandError,
    types::{Chooser, Compression, EncodingChange, MAX_CACHE_BYTES, MIN_CACHE_BYTES},
};

/// Their names, as they are set.
pub(crate) const NAMES: [&str; 4] =
    ["multifd-compression", "multifd-zstd-level", "xbzrle-cache-size", "whimbrel-compression"];

pub(super) fn take(arguments: &mut Arguments) -> Result<EncodingChange, CommandError> {
    let multifd_compression = match arguments.optional_string("multifd-compression")? {
        None => None,
        Some(name) => {
            let compression = Compression::from_name(&name);
            Some(compression.ok_or_else(|| {
                CommandError::generic(format!(
                    "Parameter 'multifd-compression' expects 'none', 'lz4' or 'zstd', not '{name}'"
                ))
            })?)
        }
    };
    let whimbrel_compression = match arguments.optional_string("whimbrel-compression")? {
        None => None,
        Some(name) => {
            let chooser = Chooser::from_name(&name);
            Some(chooser.ok_or_else(|| {
                CommandError::generic(format!(
                    "Parameter 'whimbrel-compression' expects 'auto' or 'off', not '{name}'"
                ))
            })?)
        }
    };
    let mut number = |name: &str, range: RangeInclusive<u64>| match arguments.optional_u64(name)? {
        Some(value) => in_range(name, value, range).map(Some),
        None => Ok(None),
    };
    Ok(EncodingChange {
        multifd_compression,
        multifd_zstd_level: number("multifd-zstd-level", 0..=20)?.and_then(|level| u8::try_from(level).ok()),
        xbzrle_cache_size: number("xbzrle-cache-size", MIN_CACHE_BYTES..=MAX_CACHE_BYTES)?,
        whimbrel_compression,
    })
}

/// The value of one that is given as text and is no number.
pub(super) fn word(name: &str, value: &str) -> Option<serde_json::Value> {
    ["multifd-compression", "whimbrel-compression"].contains(&name).then(|| value.into())
}
