//! What encodings of pages have done, in the monitor's words and the report's.

use engine::source::EncodedFigures;
use migration::PAGE_BYTES;
use monitor::types::{CompressionStats, XbzrleCacheStats};
use wire::Packing;

/// QEMU's figures of differences, where they were asked for or chosen.
pub(super) fn differences(encoded: &EncodedFigures) -> Option<XbzrleCacheStats> {
    let are_used = encoded.encodings.deltas || encoded.deltas + encoded.missing + encoded.overflow > 0;
    are_used.then(|| XbzrleCacheStats {
        cache_size: encoded.encodings.cache_bytes,
        bytes: encoded.delta_bytes,
        pages: encoded.deltas,
        cache_miss: encoded.missing,
        cache_miss_rate: part(encoded.missing, encoded.missing + encoded.overflow + encoded.deltas),
        encoding_rate: part(encoded.deltas * PAGE_BYTES, encoded.delta_bytes),
        overflow: encoded.overflow,
    })
}

/// QEMU's figures of packing, where it was asked for or chosen.
pub(super) fn packing(encoded: &EncodedFigures) -> Option<CompressionStats> {
    let is_used = encoded.encodings.packing.is_some() || encoded.packed_pages > 0;
    is_used.then(|| CompressionStats {
        pages: encoded.packed_pages,
        busy: 0,
        busy_rate: 0.0,
        compressed_size: encoded.packed_bytes,
        compression_rate: part(encoded.plain_bytes, encoded.packed_bytes),
    })
}

/// For the report, where there are any.
pub(super) fn of_report(encoded: &EncodedFigures) -> Option<report::Encoded> {
    let way = match encoded.encodings.packing {
        Some(Packing::Lz4) => "lz4".into(),
        Some(Packing::Zstd) => format!("zstd, level {}", encoded.encodings.zstd_level),
        None => "what each channel chose".into(),
    };
    let (differences, packed) = (differences(encoded), packing(encoded));
    (differences.is_some() || packed.is_some()).then(|| report::Encoded {
        packing: packed.map(|_| way),
        packed_pages: encoded.packed_pages,
        plain_bytes: encoded.plain_bytes,
        packed_bytes: encoded.packed_bytes,
        cache_bytes: differences.map(|differences| differences.cache_size),
        delta_pages: encoded.deltas,
        delta_bytes: encoded.delta_bytes,
        missing_pages: encoded.missing,
        overflow_pages: encoded.overflow,
    })
}

fn part(of: u64, all: u64) -> f64 {
    if all == 0 { 0.0 } else { of as f64 / all as f64 }
}
