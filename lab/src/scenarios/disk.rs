//! A disk that both hosts see, as from a storage network.

use std::{fs::File, os::unix::fs::FileExt as _};

use agent::record::{self, RECORD_BYTES};
use monitor::types::MigrationStatus;
use serde_json::json;

use super::{PATIENCE, check, end, goes_on, say};
use crate::{Host, Journey, Lab, LabError, Spec};

/// Records on the disk.
const SLOTS: u64 = 512;

pub(super) fn writer(lab: &Lab) -> Result<(), LabError> {
    let mut journey = Journey::begin(lab, Spec::linux(2))?;
    let load = journey.in_guest(&["disk", "write", "/dev/vdb", &SLOTS.to_string()])?;
    for _ in 0..2 {
        goes_on(&load, "safe", 100)?;
        let (source, destination) = (journey.here().host(), journey.elsewhere());
        pause_and_look(&mut journey, destination)?;
        let written = writes(source)?;
        let safe = goes_on(&load, "safe", 100)?;
        check(writes(source)? == written, || format!("{} still writes to the disk", source.name()))?;
        // The writer goes on meanwhile: one record is on its way.
        let damaged = damaged(lab, safe)?;
        check(damaged.len() <= 1, || format!("Records {damaged:?} of {safe} are lost or torn"))?;
    }
    let safe = load.last("safe").unwrap_or(0);
    drop(load);
    lab.pace().until("the writer has ended", PATIENCE, || {
        Ok(journey.guest().run("pidof whimbrel-lab-agent | wc -w")?.trim().eq("1").then_some(()))
    })?;
    let damaged = damaged(lab, safe)?;
    check(damaged.is_empty(), || format!("Records {damaged:?} of {safe} are lost or torn"))?;
    say(&format!("{safe} records of {} KiB were written safely", RECORD_BYTES >> 10));
    end(journey)
}

/// Moves, and stops before the switchover to see that the destination has written nothing yet.
fn pause_and_look(journey: &mut Journey<'_>, destination: &Host) -> Result<(), LabError> {
    let there = journey.vacancy()?;
    let written = writes(destination)?;
    let pause = json!({ "capabilities": [{ "capability": "pause-before-switchover", "state": true }] });
    journey.here().command("migrate-set-capabilities", pause)?;
    journey.here().migrate(&there.listen()?)?;
    journey.here().migration_is(MigrationStatus::PreSwitchover)?;
    check(writes(destination)? == written, || {
        format!("{} writes before it runs the machine", destination.name())
    })?;
    journey.here().command("migrate-continue", json!({ "state": "pre-switchover" }))?;
    let info = journey.here().migration_is(MigrationStatus::Completed)?;
    journey.arrived(there, &info);
    Ok(())
}

/// Requests to write that a host has sent to the disk (Linux, Documentation/block/stat.rst).
fn writes(host: &Host) -> Result<u64, LabError> {
    let stat = host.remote().run("cat /sys/block/vdb/stat")?;
    let count = stat.split_ascii_whitespace().nth(4).and_then(|count| count.parse().ok());
    count.ok_or_else(|| LabError::Wrong(format!("/sys/block/vdb/stat says '{stat}'")))
}

/// Records up to `safe` that are not on the disk, as this machine sees it, and have not been replaced by later ones either.
fn damaged(lab: &Lab, safe: i64) -> Result<Vec<u64>, LabError> {
    let unreadable = || LabError::file("read", lab.data_disk());
    let disk = File::open(lab.data_disk()).map_err(unreadable())?;
    let mut damaged = Vec::new();
    let safe = safe.unsigned_abs();
    for number in safe.saturating_sub(SLOTS - 1).max(1)..=safe {
        let mut bytes = vec![0; RECORD_BYTES];
        disk.read_exact_at(&mut bytes, number % SLOTS * RECORD_BYTES as u64).map_err(unreadable())?;
        let found = record::read(&bytes);
        if found.is_none_or(|found| found < number || (found - number) % SLOTS != 0) {
            damaged.push(number);
        }
    }
    Ok(damaged)
}
