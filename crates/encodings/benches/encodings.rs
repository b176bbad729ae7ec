//! Differences, and packing of batches.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use whimbrel_encodings::{Delta, Kept, Packer, Page, Unpacker, delta};
use wire::{PAGE_BYTES, Packing};

fn noise() -> impl Iterator<Item = u8> {
    let mut state = 1_u64;
    std::iter::from_fn(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Some((state >> 33) as u8)
    })
}

fn page_of_noise() -> Page {
    let mut page = [0; PAGE_BYTES];
    page.iter_mut().zip(noise()).for_each(|(byte, noise)| *byte = noise);
    page
}

fn deltas(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("delta");
    group.throughput(Throughput::Bytes(PAGE_BYTES as u64));
    for words in [0, 1, 16, 128, 512_usize] {
        let old = page_of_noise();
        let mut new = old;
        (0..words).for_each(|word| new[word * (512 / words.max(1)) * 8] ^= 1);
        let mut out = Vec::with_capacity(2 * PAGE_BYTES);
        group.bench_function(BenchmarkId::new("encode", words), |bencher| {
            bencher.iter(|| {
                out.clear();
                delta::encode(&old, &new, &mut out)
            });
        });
        out.clear();
        if delta::encode(&old, &new, &mut out).is_some() {
            let mut page = old;
            group.bench_function(BenchmarkId::new("decode", words), |bencher| {
                bencher.iter(|| Delta::split_from(&out).map(|(delta, _)| delta.apply(&mut page)));
            });
        }
        // Beside the comparison: a lock, and the copy of what was sent.
        let kept = Kept::new([64], 1 << 20);
        let mut pages = [old, new].into_iter().cycle();
        group.bench_function(BenchmarkId::new("send", words), |bencher| {
            bencher.iter(|| {
                out.clear();
                pages.next().map(|page| kept.send(0, 5, Some(1), &page, &mut out))
            });
        });
    }
    group.finish();
}

fn packing(criterion: &mut Criterion) {
    let words = ["whimbrel ", "curlew ", "godwit ", "sandpiper ", "knot ", "turnstone ", "plover ", "snipe "];
    let text: Vec<u8> = noise().flat_map(|byte| words[usize::from(byte) % 8].bytes()).take(1 << 20).collect();
    let noise: Vec<u8> = noise().take(1 << 20).collect();
    for (packing, level) in [(Packing::Lz4, 0), (Packing::Zstd, 1), (Packing::Zstd, 3)] {
        for (contents, plain) in [("text", &text), ("noise", &noise)] {
            let mut group = criterion.benchmark_group(format!("{packing:?} {level}, {contents}"));
            group.throughput(Throughput::Bytes(plain.len() as u64)).sample_size(20);
            let (mut packer, mut unpacker) = (Packer::default(), Unpacker::default());
            group.bench_function("pack", |bencher| {
                bencher.iter(|| packer.pack(packing, level, plain).map(<[u8]>::len));
            });
            if let Some(packed) = packer.pack(packing, level, plain).map(<[u8]>::to_vec) {
                let mut out = vec![0; plain.len()];
                group.bench_function("unpack", |bencher| {
                    bencher.iter(|| unpacker.unpack(packing, &packed, &mut out));
                });
            }
            group.finish();
        }
    }
}

criterion_group!(benches, deltas, packing);
criterion_main!(benches);
