//! Devices whose state is seen from both sides.

use std::time::Duration;

use serde_json::json;

use super::{PATIENCE, check, end, say};
use crate::{Journey, Lab, LabError, Spec};

/// `KEY_A`, `KEY_B` and `KEY_POWER` (Linux, include/uapi/linux/input-event-codes.h).
const KEY_A: i64 = 30;
const KEY_B: i64 = 48;
const KEY_POWER: i64 = 116;

pub(super) fn balloon_and_keyboard(lab: &Lab) -> Result<(), LabError> {
    let mut journey = Journey::begin(lab, Spec::linux(1))?;
    let keys = journey.in_guest(&["keys", "/dev/input/event0", "/dev/input/event1"])?;
    keys.number("listening", PATIENCE, |listening| listening == 1)?;
    let wanted = 128 << 20;
    set_balloon(&journey, wanted)?;
    let free = free_kib(&journey)?;
    for (name, code) in [("a", KEY_A), ("b", KEY_B)] {
        journey.hop()?;
        let found = balloon(&journey)?;
        check(found == wanted, || {
            format!("The balloon leaves {found} bytes after the move instead of {wanted}")
        })?;
        journey.here().command("send-key", json!({ "keys": [{ "type": "qcode", "data": name }] }))?;
        keys.number("key", PATIENCE, |key| key == code)?;
        keys.number("down", PATIENCE, |down| down == 0)?;
    }
    set_balloon(&journey, 192 << 20)?;
    let all = free_kib(&journey)?;
    say(&format!("the guest had {free} KiB free with the balloon, and has {all} KiB without"));
    check(all > free + (48 << 10), || "The guest did not get its memory back".into())?;
    drop(keys);
    end(journey)
}

pub(super) fn reboot(lab: &Lab) -> Result<(), LabError> {
    let mut journey = Journey::begin(lab, Spec::linux(2))?;
    journey.hop()?;
    let boots = || journey.guest().run("cat /boots");
    let before = boots()?;
    let _order = journey.order("reboot")?;
    let after = lab.pace().while_it_moves("the guest is up again", Duration::from_secs(60), || {
        let said = journey.here().process().output().out.len() as u64;
        Ok(boots().ok().filter(|count| *count != before).ok_or(said))
    })?;
    say(&format!("boot {} was at the destination", after.trim()));
    let mut journey = journey.rebooted()?;
    journey.hop()?;
    let keys = journey.in_guest(&["keys", "/dev/input/event0", "/dev/input/event1"])?;
    keys.number("listening", PATIENCE, |listening| listening == 1)?;
    journey.here().command("system_powerdown", json!({}))?;
    keys.number("key", PATIENCE, |key| key == KEY_POWER)?;
    drop(keys);
    end(journey)
}

/// Asks for a size, and waits until the guest has made room.
fn set_balloon(journey: &Journey<'_>, bytes: u64) -> Result<(), LabError> {
    journey.here().command("balloon", json!({ "value": bytes }))?;
    journey.pace().while_it_moves("the balloon has its size", PATIENCE, || {
        let found = balloon(journey)?;
        Ok(if found == bytes { Ok(()) } else { Err(found) })
    })
}

/// What the balloon leaves the guest.
fn balloon(journey: &Journey<'_>) -> Result<u64, LabError> {
    let info = journey.here().command("query-balloon", json!({}))?;
    info["actual"].as_u64().ok_or_else(|| LabError::Wrong(format!("query-balloon says {info}")))
}

fn free_kib(journey: &Journey<'_>) -> Result<u64, LabError> {
    let text = journey.guest().run("cat /proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemFree:")?.split_ascii_whitespace().next()?.parse().ok());
    line.ok_or_else(|| LabError::Wrong(format!("/proc/meminfo says '{text}'")))
}
