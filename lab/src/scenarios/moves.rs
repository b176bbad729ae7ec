//! A guest moves there and back while something goes on in it.

use super::{PATIENCE, say};
use crate::{Journey, Lab, LabError, Spawned, Spec};

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

/// Waits until a load has counted on by `more`.
fn goes_on(load: &Spawned, name: &str, more: i64) -> Result<i64, LabError> {
    let before = load.last(name).unwrap_or(0);
    load.number(name, PATIENCE, |now| now >= before + more)
}

fn end(journey: Journey<'_>) -> Result<(), LabError> {
    journey.finish()?.iter().for_each(|figure| say(figure));
    Ok(())
}
