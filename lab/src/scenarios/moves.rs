//! A guest moves there and back while something goes on in it.

use guests::Report;

use super::{PATIENCE, check, end, goes_on, say};
use crate::{Journey, Lab, LabError, Spec, Vmm};

pub(super) fn idle_1(lab: &Lab) -> Result<(), LabError> {
    idle(lab, 1)
}

pub(super) fn idle_2(lab: &Lab) -> Result<(), LabError> {
    idle(lab, 2)
}

pub(super) fn idle_4(lab: &Lab) -> Result<(), LabError> {
    idle(lab, 4)
}

fn idle(lab: &Lab, cpus: u8) -> Result<(), LabError> {
    let mut journey = Journey::begin(lab, Spec::linux(cpus))?;
    let seen = journey.guest().run("nproc")?;
    if seen.trim() != cpus.to_string() {
        return Err(LabError::Wrong(format!("The guest has {} CPUs instead of {cpus}", seen.trim())));
    }
    journey.there_and_back()?;
    // Every CPU still takes its turn.
    for cpu in 0..cpus {
        journey.guest().run(&format!("taskset {:x} true", 1 << cpu))?;
    }
    end(journey)
}

pub(super) fn memory(lab: &Lab) -> Result<(), LabError> {
    let mut journey = Journey::begin(lab, Spec::linux(2))?;
    let load = journey.in_guest(&["memory", "64", "20"])?;
    load.number("filled", PATIENCE, |filled| filled == 1)?;
    for _ in 0..2 {
        journey.hop()?;
        // The check goes through all of it at the new place.
        goes_on(&load, "pages", 16 << 10)?;
    }
    say(&format!("{} pages were checked and written anew", load.last("pages").unwrap_or(0)));
    drop(load);
    end(journey)
}

/// The workload guest fills and checks all its memory by itself, and tells of every fault and every clock that goes back.
pub(super) fn workload(lab: &Lab) -> Result<(), LabError> {
    let spec = Spec::workload(2, "own=48M work=16M rate=8M order=random verify=50");
    let (a, b) = (lab.host("a"), lab.host("b"));
    let first = Vmm::boot(lab, a, &spec)?;
    reports(lab, &first, "memory is filled and checked", |report| report.filled && report.passes >= 1)?;
    let second = Vmm::vacancy(lab, b, &spec)?;
    first.moves_to(&second)?;
    let there = reports(lab, &second, "the guest reports from there", |_| true)?;
    let there =
        reports(lab, &second, "all memory was checked there", |report| report.passes >= there.passes + 2)?;
    let third = Vmm::vacancy(lab, a, &spec)?;
    second.moves_to(&third)?;
    let back =
        reports(lab, &third, "all memory was checked again", |report| report.passes >= there.passes + 2)?;
    say(&format!("{} passes over all memory, longest gap {} ms", back.passes, back.max_gap.as_millis()));
    check(back.errors == 0 && back.tsc_back == 0 && back.clock_back == 0, || {
        format!("The guest found faults: {back:?}")
    })
}

/// Waits for a report of the guest, for longer as long as it checks pages.
fn reports(
    lab: &Lab,
    vmm: &Vmm<'_>,
    what: &str,
    wanted: impl Fn(&Report) -> bool,
) -> Result<Report, LabError> {
    let mut last = None;
    let waited = lab.pace().while_it_moves(what, PATIENCE, || {
        let output = vmm.process().output();
        check(output.ending.is_none(), || format!("The VMM ended: {}", output.err))?;
        last = output.out.lines().rev().find_map(guests::parse_report);
        let verified = last.as_ref().map_or(0, |report| report.verified);
        Ok(last.clone().filter(|report| wanted(report)).ok_or(verified))
    });
    waited.map_err(|error| match error {
        LabError::Late { what, limit } => LabError::Late { what: format!("{what}, but {last:?}"), limit },
        error => error,
    })
}
