//! A Linux guest that runs at the destination before its memory is there.

use std::{
    thread,
    time::{Duration, Instant},
};

use monitor::types::{MigrationInfo, MigrationStatus, RunState};
use serde_json::json;

use super::{PATIENCE, check, end, goes_on, say};
use crate::{Journey, Lab, LabError, Spawned, Spec, Vmm};

/// How long the network is cut: longer than a connection lives of which nothing is heard.
const CUT: Duration = Duration::from_secs(20);
/// How long a side may take to notice it.
const NOTICED: Duration = Duration::from_secs(60);

/// Memory, a disk and a TCP stream are at work meanwhile.
pub(super) fn there_and_back(lab: &Lab) -> Result<(), LabError> {
    let (mut journey, memory) = begin(lab)?;
    let _echo = journey.in_guest(&["stream", "echo", "0.0.0.0:9"])?;
    journey.guest().run("until netstat -lnt | grep -q ':9 '; do sleep 0.1; done")?;
    let address = format!("{}:9", Spec::address());
    let stream =
        lab.host("a").remote().spawn(&["whimbrel-lab-agent", "stream", "check", &address, "1024"])?;
    let disk = journey.in_guest(&["disk", "write", "/dev/vdb", "64"])?;
    for when in ["immediate", "request"] {
        goes_on(&stream, "bytes", 64 << 10)?;
        let there = leave(&journey, when, 0)?;
        if when == "request" {
            journey.here().command("migrate-start-postcopy", json!({}))?;
        }
        let info = journey.here().migration_is(MigrationStatus::Completed)?;
        say(&asked_for(&info));
        journey.arrived(there, &info);
        goes_on(&memory, "pages", 16 << 10)?;
        goes_on(&stream, "bytes", 64 << 10)?;
        goes_on(&disk, "safe", 10)?;
    }
    drop((stream, disk, memory));
    end(journey)
}

pub(super) fn cut(lab: &Lab) -> Result<(), LabError> {
    let (mut journey, memory) = begin(lab)?;
    let there = leave(&journey, "immediate", 1 << 20)?;
    journey.here().migration_is(MigrationStatus::PostcopyActive)?;
    lab.network().cut();
    let begun = Instant::now();
    lab.pace().until("the source has noticed the cut", NOTICED, || {
        let status = journey.here().migration()?.status;
        Ok((status != Some(MigrationStatus::PostcopyActive)).then_some(()))
    })?;
    say(&format!("noticed after {:.1} s", begun.elapsed().as_secs_f32()));
    thread::sleep(CUT.saturating_sub(begun.elapsed()));
    let seen = [journey.here().run_state()?, there.run_state()?];
    check(seen[1] == RunState::Running && seen[0] != RunState::Running, || {
        format!("Source and destination are {seen:?} while the network is cut")
    })?;
    lab.network().heal();
    journey.here().command("migrate-set-parameters", json!({ "max-postcopy-bandwidth": 0 }))?;
    let info = journey.here().migration_is(MigrationStatus::Completed)?;
    say(&asked_for(&info));
    journey.arrived(there, &info);
    // The check goes through all of it.
    goes_on(&memory, "pages", 32 << 10)?;
    drop(memory);
    journey.hop()?;
    end(journey)
}

/// A guest that writes and checks memory all the time.
fn begin(lab: &Lab) -> Result<(Journey<'_>, Spawned), LabError> {
    let journey = Journey::begin(lab, Spec::linux(2))?;
    let memory = journey.in_guest(&["memory", "64", "8"])?;
    memory.number("filled", PATIENCE, |filled| filled == 1)?;
    Ok((journey, memory))
}

/// Begins a migration that may go on by postcopy, with so many bytes a second for pages that nobody waits for.
fn leave<'lab>(journey: &Journey<'lab>, when: &str, limit: u64) -> Result<Vmm<'lab>, LabError> {
    let there = journey.vacancy()?;
    let capability = json!({ "capabilities": [{ "capability": "postcopy-ram", "state": true }] });
    journey.here().command("migrate-set-capabilities", capability)?;
    let parameters = json!({ "whimbrel-postcopy": when, "max-postcopy-bandwidth": limit });
    journey.here().command("migrate-set-parameters", parameters)?;
    journey.here().migrate(&there.listen()?)?;
    Ok(there)
}

fn asked_for(info: &MigrationInfo) -> String {
    let ram = info.ram.clone().unwrap_or_default();
    format!(
        "the guest asked for pages {} times, {} MiB followed it",
        ram.postcopy_requests,
        ram.postcopy_bytes >> 20
    )
}
