//! Memory of every make and size moves to every other, also where a balloon has had some of it, and whoever takes huge pages meanwhile.

use std::{fs::File, os::fd::OwnedFd};

use guests::Report;
use monitor::types::BalloonInfo;
use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, ftruncate, memfd_create};
use serde_json::{Value, json};

use crate::harness::{ControlGroup, HugePages, Lab, Spec, Story, Vmm, holds, run_to_end_with};

const HUGE: u64 = 2 << 20;

/// A machine of that make, whose guest serves the balloon.
fn spec(mib: u64, make: &str) -> Spec {
    Spec::new("work=8M rate=8M balloon=on").memory_mib(mib).flag("--memory-backing", make)
}

/// Has the balloon leave the guest that much.
fn leave(vmm: &Vmm, mib: u64) {
    vmm.command("balloon", json!({ "value": mib << 20 }));
    holds("the balloon has its size", || {
        vmm.client().query::<BalloonInfo>("query-balloon", Value::Null).unwrap().actual == mib << 20
    });
}

/// The guest gets everything back, and uses it.
fn give_back(vmm: &Vmm, mib: u64, story: &Story) {
    // Not a report of before the balloon had it.
    let has_some = |report: &Report| report.count("balloon_pages") > Some(0);
    let before = story.wait_for("the balloon has some of it", has_some).owned;
    leave(vmm, mib);
    story.wait_for("its memory is back", |report| report.owned > before);
    story.goes_on(2);
}

#[test]
fn memory_of_every_make_moves_to_every_make_with_a_balloon_that_had_some_of_it() {
    let Some(lab) = Lab::new() else { return };
    let makes = ["anonymous", "memfd", "hugetlb"];
    // Never more than two machines of 98 MiB at once.
    let pages = HugePages::reserve(2 * 49);
    let pairs = makes.iter().flat_map(|there| makes.map(|here| (*there, here)));
    for ((there, here), mib) in pairs.zip([66, 70, 98, 74, 82, 90, 66, 94, 98]) {
        if pages.is_none() && [there, here].contains(&"hugetlb") {
            continue;
        }
        let (source, destination) = (lab.boot(&spec(mib, there)), lab.vacancy(&spec(mib, here)));
        let mut story = Story::of(&source);
        story.filled();
        leave(&source, mib - 20);
        source.set(json!({ "whimbrel-digest": true }));
        source.moves_to(&destination, &destination.listen());
        story.goes_on_at(&destination);
        give_back(&destination, mib, &story);
        story.assert_intact();
    }
}

#[test]
fn a_machine_whose_control_group_lets_it_have_too_few_huge_pages_does_not_start() {
    let Some(lab) = Lab::new() else { return };
    let Some(_pages) = HugePages::reserve(2 * 33) else { return };
    let Some(group) = ControlGroup::of_huge_pages("pages", 66 << 20) else { return };
    let flags = |mib| {
        let mut flags = lab.flags(&spec(mib, "hugetlb"));
        flags.extend(["--serial", "none", "--paused"].map(str::to_owned));
        flags
    };
    for more in [&[][..], &["--incoming", "defer"]] {
        let flags = flags(68);
        let flags: Vec<&str> = flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
        let output = run_to_end_with(&group.prefix(), &flags);
        let said = String::from_utf8_lossy(&output.stderr);
        // Not by a signal, later.
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("leaves it 66 MiB of them") && said.contains("hugetlb.2MB.max"), "{said}");
    }
    let vmm = lab.boot(&spec(66, "hugetlb").prefix(&group.prefix()));
    Story::of(&vmm).filled();
}

#[test]
fn more_than_three_gibibytes_of_huge_pages_move_to_small_ones() {
    let Some(lab) = Lab::new() else { return };
    let Some(_pages) = HugePages::reserve(1539) else { return };
    let spec = |make| Spec::new("work=8M rate=8M own=32M").memory_mib(3078).flag("--memory-backing", make);
    let (source, destination) = (lab.boot(&spec("hugetlb")), lab.vacancy(&spec("memfd")));
    let mut story = Story::of(&source);
    story.filled();
    source.moves_to(&destination, &destination.listen());
    story.goes_on_at(&destination);
    story.goes_on(2);
    story.assert_intact();
}

/// Huge pages that nobody had or was promised, for as long as this is there.
struct Greedy {
    _memory: File,
    pages: u64,
}

impl Greedy {
    /// As many as there are, up to `most`: other programs want some, too.
    fn take(most: u64) -> Self {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
        let memory: OwnedFd = memfd_create("greedy", flags).unwrap();
        let mut pages = 0;
        ftruncate(&memory, most * HUGE).unwrap();
        while pages < most && fallocate(&memory, FallocateFlags::empty(), pages * HUGE, HUGE).is_ok() {
            pages += 1;
        }
        Self { _memory: memory.into(), pages }
    }
}

/// By both ways of moving. What is taken from the pool is what the machines do not have: they live on.
fn outlives_others_who_take_huge_pages(prepare: impl Fn(&Vmm)) {
    let Some(lab) = Lab::new() else { return };
    let mib = 66;
    // Two machines, and some that can be taken. What the balloon has would be there to be taken as well, if it were given back.
    let (spare, lent) = (4, 12);
    let Some(_pages) = HugePages::reserve(2 * 33 + spare) else { return };
    let spec = spec(mib, "hugetlb");
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    let mut story = Story::of(&source);
    story.filled();
    leave(&source, mib - 2 * lent);
    let uri = destination.listen();
    let greedy = Greedy::take(spare + lent);
    assert!(greedy.pages >= spare, "{} pages were free", greedy.pages);
    // The machine's memory is its own, in the balloon or not.
    give_back(&source, mib, &story);
    leave(&source, mib - 2 * lent);
    prepare(&source);
    source.moves_to(&destination, &uri);
    story.goes_on_at(&destination);
    give_back(&destination, mib, &story);
    story.assert_intact();
    drop(greedy);
}

#[test]
fn others_who_take_huge_pages_that_a_balloon_has_emptied_take_nothing_from_the_machine() {
    outlives_others_who_take_huge_pages(|_| {});
}

#[test]
fn others_who_take_huge_pages_take_nothing_from_a_machine_whose_memory_follows_it() {
    outlives_others_who_take_huge_pages(|source| {
        source.enable("postcopy-ram");
        source.set(json!({ "whimbrel-postcopy": "immediate" }));
    });
}
