//! The fuzz targets without a fuzzer: seeds, seeds with changes, and random bytes. `make fuzz` goes further.

use std::{fs, path::Path};

use fuzzing::{TARGETS, Target};
use proptest::{collection::vec, prelude::*, sample::Index, test_runner::TestRunner};

/// Changed seeds and random inputs for each target.
const CASES: u32 = 2000;

#[test]
fn seeds_break_no_promise() {
    for target in TARGETS {
        (target.seeds)().iter().for_each(|seed| (target.run)(seed));
    }
}

#[test]
fn every_beginning_of_a_seed_breaks_no_promise() {
    for target in TARGETS {
        for seed in (target.seeds)() {
            (0..seed.len()).for_each(|end| (target.run)(&seed[..end]));
        }
    }
}

#[test]
fn changed_seeds_break_no_promise() {
    for target in TARGETS {
        check(target, changed((target.seeds)()));
    }
}

#[test]
fn random_bytes_break_no_promise() {
    for target in TARGETS {
        check(target, vec(any::<u8>(), 0..200));
    }
}

#[test]
fn every_target_has_a_fuzz_binary() {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where the crate is");
    let folder = Path::new(&here).join("../../fuzz/fuzz_targets");
    let mut found: Vec<String> = fs::read_dir(folder)
        .expect("fuzz/fuzz_targets is there")
        .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    let mut targets: Vec<_> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    found.sort();
    targets.sort();
    assert_eq!(found, targets);
}

/// Seeds of which a few bytes were replaced, removed or repeated.
fn changed(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<Index>(), any::<u8>(), 0..4_u8);
    (any::<Index>(), vec(change, 1..5)).prop_map(move |(seed, changes)| {
        let mut bytes = seed.get(&seeds).clone();
        for (at, byte, how) in changes {
            let at = at.index(bytes.len() + 1);
            match how {
                0 if at < bytes.len() => bytes[at] = byte,
                1 if at < bytes.len() => bytes[at] ^= 1 << (byte % 8),
                2 if at < bytes.len() => drop(bytes.remove(at)),
                _ => bytes.insert(at, byte),
            }
        }
        bytes
    })
}

fn check(target: &Target, inputs: impl Strategy<Value = Vec<u8>>) {
    let config = ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() };
    let outcome = TestRunner::new(config).run(&inputs, |bytes| {
        (target.run)(&bytes);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{}: {error}", target.name));
}
