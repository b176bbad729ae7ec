//! What goes wrong on the way.

use std::{
    thread,
    time::{Duration, Instant},
};

use monitor::types::{MigrationStatus, RunState};
use serde_json::json;

use super::{PATIENCE, check, end, goes_on, say};
use crate::{Journey, Lab, LabError, Spawned, Spec, Vmm, Weather};

/// How long a side may take to notice that the other is gone for good, and to say so.
const NOTICED: Duration = Duration::from_secs(60);
/// A cut that no side gives up for.
const SHORT_CUT: Duration = Duration::from_secs(2);
/// A cut that is longer than a switchover may take: 10 seconds and the downtime limit.
const LONG_CUT: Duration = Duration::from_secs(14);

pub(super) fn destination_dies(lab: &Lab) -> Result<(), LabError> {
    let (mut journey, load) = busy(lab)?;
    let there = under_way(&journey)?;
    lab.host("b").kill();
    drop(there);
    runs_on_here(&journey, &load)?;
    lab.revive(lab.host("b"))?;
    full_speed(&journey)?;
    journey.hop()?;
    goes_on(&load, "pages", 16 << 10)?;
    drop(load);
    end(journey)
}

pub(super) fn cut_on_the_way(lab: &Lab) -> Result<(), LabError> {
    let (mut journey, load) = busy(lab)?;
    let there = under_way(&journey)?;
    lab.network().cut();
    runs_on_here(&journey, &load)?;
    lab.network().heal();
    full_speed(&journey)?;
    // The destination has noticed too, by now or soon, and listens again.
    let info = lab.pace().until("the next attempt works", NOTICED, || {
        journey.here().migrate(&there.uri())?;
        Ok(journey.here().migration_is(MigrationStatus::Completed).ok())
    })?;
    journey.arrived(there, &info);
    goes_on(&load, "pages", 16 << 10)?;
    drop(load);
    end(journey)
}

pub(super) fn cut_at_switchover(lab: &Lab) -> Result<(), LabError> {
    let (mut journey, load) = busy(lab)?;
    full_speed(&journey)?;
    // With 100 ms one way, a cut falls into another step of the hand-over each time. The long ones are longer than a source waits
    // for a destination that has not taken the machine yet: it must take it back, but only if it has not said go.
    for (after_ms, long) in [(0, true), (200, false), (400, false), (600, true)] {
        let there = journey.vacancy()?;
        let pause = json!({ "capabilities": [{ "capability": "pause-before-switchover", "state": true }] });
        journey.here().command("migrate-set-capabilities", pause)?;
        journey.here().migrate(&there.listen()?)?;
        journey.here().migration_is(MigrationStatus::PreSwitchover)?;
        lab.network().weather(Weather { delay: Duration::from_millis(100), ..Weather::default() });
        journey.here().command("migrate-continue", json!({ "state": "pre-switchover" }))?;
        thread::sleep(Duration::from_millis(after_ms));
        lab.network().cut();
        let seen = watch_the_cut(&journey, &there, if long { LONG_CUT } else { SHORT_CUT })?;
        lab.network().heal();
        let runs_there = lab.pace().until("one side runs the machine", NOTICED, || {
            let seen = states(&journey, &there)?;
            Ok(seen.iter().position(|state| *state == RunState::Running).map(|index| index == 1))
        })?;
        say(&format!(
            "cut after {after_ms} ms{}: {seen:?}, and with the network back it runs on the {}",
            if long { " for long" } else { "" },
            if runs_there { "destination" } else { "source" }
        ));
        if runs_there {
            let info = journey.here().migration_is(MigrationStatus::Completed)?;
            journey.arrived(there, &info);
        }
        goes_on(&load, "pages", 8 << 10)?;
    }
    drop(load);
    end(journey)
}

/// What both sides are at the end of a cut; while it lasts they never both run the machine.
fn watch_the_cut(journey: &Journey<'_>, there: &Vmm<'_>, cut: Duration) -> Result<[RunState; 2], LabError> {
    let begun = Instant::now();
    loop {
        let seen = states(journey, there)?;
        if begun.elapsed() >= cut {
            return Ok(seen);
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// A guest that writes memory all the time, and moves slowly.
fn busy(lab: &Lab) -> Result<(Journey<'_>, Spawned), LabError> {
    let journey = Journey::begin(lab, Spec::linux(2))?;
    let load = journey.in_guest(&["memory", "32", "8"])?;
    load.number("filled", PATIENCE, |filled| filled == 1)?;
    journey.here().command("migrate-set-parameters", json!({ "max-bandwidth": 8 << 20 }))?;
    Ok((journey, load))
}

fn full_speed(journey: &Journey<'_>) -> Result<(), LabError> {
    journey.here().command("migrate-set-parameters", json!({ "max-bandwidth": 0 })).map(|_| ())
}

/// Starts a migration, and waits until a part of the pages has moved.
fn under_way<'lab>(journey: &Journey<'lab>) -> Result<Vmm<'lab>, LabError> {
    let there = journey.vacancy()?;
    journey.here().migrate(&there.listen()?)?;
    journey.pace().while_it_moves("16 MiB have moved", PATIENCE, || {
        let info = journey.here().migration()?;
        check(info.status.is_some_and(|status| !status.is_final()), || {
            format!("It ended too early: {info:?}")
        })?;
        let moved = info.ram.map_or(0, |ram| ram.transferred);
        Ok(if moved > 16 << 20 { Ok(()) } else { Err(moved) })
    })?;
    Ok(there)
}

/// Waits until the attempt has failed, and sees that the guest runs on where it is.
fn runs_on_here(journey: &Journey<'_>, load: &Spawned) -> Result<(), LabError> {
    let start = Instant::now();
    let info = journey.pace().until("the source notices", NOTICED, || {
        let info = journey.here().migration()?;
        Ok((info.status == Some(MigrationStatus::Failed)).then_some(info))
    })?;
    let reason = info.error_desc.unwrap_or_default();
    say(&format!("failed after {:.1} s: {reason}", start.elapsed().as_secs_f32()));
    check(!reason.is_empty(), || "The failure has no reason".into())?;
    let state = journey.here().run_state()?;
    check(state == RunState::Running, || format!("The machine is {state:?} at the source"))?;
    goes_on(load, "pages", 8 << 10).map(|_| ())
}

/// What source and destination are. It is an error if both run the machine.
fn states(journey: &Journey<'_>, there: &Vmm<'_>) -> Result<[RunState; 2], LabError> {
    let seen = [journey.here().run_state()?, there.run_state()?];
    check(seen != [RunState::Running; 2], || "Both sides run the machine".into())?;
    Ok(seen)
}
