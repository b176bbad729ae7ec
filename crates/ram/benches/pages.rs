//! What the engine does to every page: looking for zeros, summing up, and walking a dirty bitmap.

use std::{hint::black_box, ptr::NonNull};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use whimbrel_ram::{Backing, BlockLayout, PAGE_SIZE, PageSums, Ram, for_each_run, is_zero_page};

/// More than any cache, so that memory is what is measured.
const BYTES: u64 = 256 << 20;
/// Within the second cache of any core, as pages are that were just received.
const CACHED_BYTES: u64 = 256 << 10;

fn zero_pages(criterion: &mut Criterion) {
    let layout = BlockLayout { name: "ram.low".into(), guest_address: 0, bytes: BYTES };
    let ram = Ram::allocate(&[layout], Backing::Anonymous).expect("256 MiB of memory");
    let block = &ram.blocks()[0];
    let memory = block.segment(0, block.pages()).expect("the whole block").address;
    // SAFETY: the whole block, which lives to the end of the function. Writing it backs it with pages of its own.
    unsafe { memory.as_ptr().write_bytes(0, BYTES as usize) };
    let mut group = criterion.benchmark_group("zero page test");
    group.throughput(Throughput::Bytes(BYTES)).sample_size(20);
    group.bench_function("all zero", |bencher| {
        bencher.iter(|| {
            // SAFETY: every page is in the block.
            (0..block.pages()).filter(|&page| unsafe { is_zero_page(address(memory, page)) }).count()
        });
    });
    group.bench_function("bare read of the same memory", |bencher| {
        bencher.iter(|| {
            // SAFETY: the whole block, initialised above, and nobody writes it.
            let words =
                unsafe { std::slice::from_raw_parts(memory.as_ptr().cast::<u64>(), BYTES as usize / 8) };
            black_box(words).iter().fold(0_u64, |sum, word| sum | word)
        });
    });
    group.finish();
}

fn page_sums(criterion: &mut Criterion) {
    let layout = BlockLayout { name: "ram.low".into(), guest_address: 0, bytes: BYTES };
    let ram = Ram::allocate(&[layout], Backing::Anonymous).expect("256 MiB of memory");
    let block = &ram.blocks()[0];
    let memory = block.segment(0, block.pages()).expect("the whole block").address;
    // SAFETY: the whole block, which lives to the end of the function.
    unsafe { memory.as_ptr().write_bytes(0x5a, BYTES as usize) };
    let sums = PageSums::new(ram.clone());
    let mut group = criterion.benchmark_group("sums of pages");
    for (name, bytes) in [("from memory", BYTES), ("from the cache", CACHED_BYTES)] {
        group.throughput(Throughput::Bytes(bytes)).sample_size(20);
        group.bench_function(name, |bencher| {
            bencher.iter(|| sums.take(0, 0, black_box(bytes / PAGE_SIZE as u64)));
        });
    }
    group.finish();
}

fn address(memory: NonNull<u8>, page: u64) -> NonNull<u8> {
    // SAFETY: the caller stays within the block.
    unsafe { memory.add(page as usize * PAGE_SIZE) }
}

fn sparse_walk(criterion: &mut Criterion) {
    let pages = (1_u64 << 40) / PAGE_SIZE as u64;
    let mut words = vec![0_u64; (pages / 64) as usize];
    let mut seed = 1_u64;
    for _ in 0..pages / 1000 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let page = (seed >> 20) % pages;
        words[(page / 64) as usize] |= 1 << (page % 64);
    }
    let mut group = criterion.benchmark_group("dirty bitmap of 1 TiB");
    group.sample_size(20);
    group.bench_function("walk, 0.1 % dirty", |bencher| {
        bencher.iter(|| {
            let mut sum = 0;
            for_each_run(black_box(&words), 0, |_, pages| sum += pages);
            sum
        });
    });
    group.finish();
}

criterion_group!(benches, zero_pages, page_sums, sparse_walk);
criterion_main!(benches);
