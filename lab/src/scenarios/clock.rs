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
    step(journey.guest(), -ahead_us(a.remote(), &address)?)?;
    let before = ahead_us(a.remote(), &address)?;
    let mut apart = vec![before];
    for _ in 0..2 {
        journey.hop()?;
        goes_on(&watch, "monotonic_ns", 500_000_000)?;
        apart.push(ahead_us(journey.here().host().remote(), &address)?);
    }
    let number = |name| watch.last(name).unwrap_or(i64::MAX);
    let shown: Vec<_> = apart.iter().map(|us| format!("{:.1}", *us as f64 / 1000.0)).collect();
    say(&format!(
        "the wall clock was ahead of its host's by {} ms; longest gap {} ms",
        shown.join(", "),
        number("longest_ms")
    ));
    check(number("monotonic_back") == 0, || "The monotonic clock went back".into())?;
    check(apart.iter().all(|us| us.abs() <= APART_MS * 1000), || {
        format!("The wall clock is wrong: {apart:?} µs")
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
    step(host.remote(), ahead_us(host.remote(), &address)?)
}

fn step(remote: &Remote, us: i64) -> Result<(), LabError> {
    remote.run(&format!("whimbrel-lab-agent clock step {us}")).map(|_| ())
}

/// How far the clock at `address` is ahead of that of `remote`.
fn ahead_us(remote: &Remote, address: &str) -> Result<i64, LabError> {
    let compare = remote.spawn(&["whimbrel-lab-agent", "clock", "compare", address])?;
    compare.number("ahead_us", PATIENCE, |_| true)
}
