//! Encoding and decoding of page batches.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use whimbrel_wire::{Batch, Encoding, HEADER_BYTES, MAX_RUNS};

/// The worst case: every page a run of its own, raw and zero in turn.
fn scattered() -> Batch {
    let mut batch = Batch { round: 1, block: 0, ..Batch::default() };
    for index in 0..MAX_RUNS as u64 {
        batch.push(index * 3, if index % 2 == 0 { Encoding::Raw } else { Encoding::Zero });
    }
    batch
}

fn batches(criterion: &mut Criterion) {
    let batch = scattered();
    let mut frame = Vec::new();
    let mut group = criterion.benchmark_group("batch of 512 scattered pages");
    group.throughput(Throughput::Elements(MAX_RUNS as u64));
    group.bench_function("encode", |bencher| bencher.iter(|| batch.encode_into(7, &mut frame)));
    batch.encode_into(7, &mut frame);
    let mut decoded = Batch::default();
    group.bench_function("decode", |bencher| {
        bencher.iter(|| decoded.decode_from(&frame[HEADER_BYTES..], |_| Some(1 << 20)));
    });
    group.finish();
}

criterion_group!(benches, batches);
criterion_main!(benches);
