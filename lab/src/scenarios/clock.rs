//! Time in a guest that moves.

use super::{PATIENCE, check, end, goes_on, say};
use crate::{Host, Journey, Lab, LabError, Remote, Spec};

/// How far the guest's wall clock may be from its host's.
const APART_MS: i64 = 50;

pub(super) fn clock(lab: &Lab) -> Result<(), LabError> {
    let [a, b] = [lab.host("a"), lab.host("b")];
    set_like(b, a)?;
    let mut journey = Journey::begin(lab, Spec::linux(2))?;
    let watch = journey.in_guest(&["clock", "watch", "0.0.0.0:10"])?;
    goes_on(&watch, "wall_ns", 1)?;
    // As a time service would. The kernel itself takes the time from a clock that shows whole seconds.
    let address = format!("{}:10", Spec::address());
    step(journey.guest(), -compare(a.remote(), &address)?.ahead_us)?;
    let mut apart = vec![compare(a.remote(), &address)?];
    for _ in 0..2 {
        journey.hop()?;
        goes_on(&watch, "monotonic_ns", 500_000_000)?;
        apart.push(compare(journey.here().host().remote(), &address)?);
    }
    let number = |name| watch.last(name).unwrap_or(i64::MAX);
    let shown: Vec<_> =
        apart.iter().map(|compared| format!("{:.1}", compared.ahead_us as f64 / 1000.0)).collect();
    say(&format!(
        "the wall clock was ahead of its host's by {} ms; longest gap {} ms",
        shown.join(", "),
        number("longest_ms")
    ));
    check(number("monotonic_back") == 0, || "The monotonic clock went back".into())?;
    // Each was set and read over a network of its own delay.
    let doubt_us: i64 = apart.iter().map(|compared| compared.within_us).max().unwrap_or(0);
    check(apart.iter().all(|compared| compared.ahead_us.abs() <= APART_MS * 1000 + 2 * doubt_us), || {
        format!("The wall clock is wrong: {} ms", shown.join(", "))
    })?;
    let source =
        journey.guest().run("cat /sys/devices/system/clocksource/clocksource0/current_clocksource")?;
    check(source.trim() == "kvm-clock", || format!("The clock source is {source} now"))?;
    drop(watch);
    end(journey)
}

/// Sets the clock of `host` like that of `other`.
fn set_like(host: &Host, other: &Host) -> Result<(), LabError> {
    let watch = other.remote().spawn(&["whimbrel-lab-agent", "clock", "watch", "0.0.0.0:10"])?;
    watch.number("wall_ns", PATIENCE, |_| true)?;
    let address = format!("{}:10", other.address());
    step(host.remote(), compare(host.remote(), &address)?.ahead_us)
}

fn step(remote: &Remote, us: i64) -> Result<(), LabError> {
    remote.run(&format!("whimbrel-lab-agent clock step {us}")).map(|_| ())
}

/// A comparison of the clock at an address with that of a host.
struct Compared {
    /// How far it is ahead.
    ahead_us: i64,
    /// How wrong that may be: half of the time that the question took.
    within_us: i64,
}

/// Compares the clock at `address` with that of `remote`.
fn compare(remote: &Remote, address: &str) -> Result<Compared, LabError> {
    let compare = remote.spawn(&["whimbrel-lab-agent", "clock", "compare", address])?;
    let round_trip_us = compare.number("round_trip_us", PATIENCE, |_| true)?;
    let ahead_us = compare.number("ahead_us", PATIENCE, |_| true)?;
    Ok(Compared { ahead_us, within_us: round_trip_us / 2 })
}
