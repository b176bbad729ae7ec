//! What encodings of pages have done, in the monitor's words and the report's.

use engine::source::EncodedFigures;
use migration::PAGE_BYTES;
use monitor::types::{CompressionStats, XbzrleCacheStats};
use wire::Packing;

/// QEMU's figures of differences, where there may be any.
pub(super) fn differences(encoded: &EncodedFigures) -> Option<XbzrleCacheStats> {
    encoded.encodings.deltas.then(|| XbzrleCacheStats {
        cache_size: encoded.encodings.cache_bytes,
        bytes: encoded.delta_bytes,
        pages: encoded.deltas,
        cache_miss: encoded.missing,
        cache_miss_rate: part(encoded.missing, encoded.missing + encoded.overflow + encoded.deltas),
        encoding_rate: part(encoded.deltas * PAGE_BYTES, encoded.delta_bytes),
        overflow: encoded.overflow,
    })
}

/// QEMU's figures of packing, where there is any.
pub(super) fn packing(encoded: &EncodedFigures) -> Option<CompressionStats> {
    encoded.encodings.packing.map(|_| CompressionStats {
        pages: encoded.packed_pages,
        busy: 0,
        busy_rate: 0.0,
        compressed_size: encoded.packed_bytes,
        compression_rate: part(encoded.plain_bytes, encoded.packed_bytes),
    })
}

/// For the report, where there are any.
pub(super) fn of_report(encoded: &EncodedFigures) -> Option<report::Encoded> {
    let packing = encoded.encodings.packing.map(|packing| match packing {
        Packing::Lz4 => "lz4".into(),
        Packing::Zstd => format!("zstd, level {}", encoded.encodings.zstd_level),
    });
    encoded.encodings.are_any().then(|| report::Encoded {
        packing,
        packed_pages: encoded.packed_pages,
        plain_bytes: encoded.plain_bytes,
        packed_bytes: encoded.packed_bytes,
        cache_bytes: encoded.encodings.deltas.then_some(encoded.encodings.cache_bytes),
        delta_pages: encoded.deltas,
        delta_bytes: encoded.delta_bytes,
        missing_pages: encoded.missing,
        overflow_pages: encoded.overflow,
    })
}

fn part(of: u64, all: u64) -> f64 {
    if all == 0 { 0.0 } else { of as f64 / all as f64 }
}
