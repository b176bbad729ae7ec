//! Guests boot.

use super::say;
use crate::{Journey, Kernel, Lab, LabError, Spec, Vmm};

pub(super) fn vmlinuz(lab: &Lab) -> Result<(), LabError> {
    linux(lab, Kernel::Vmlinuz)
}

pub(super) fn vmlinux(lab: &Lab) -> Result<(), LabError> {
    linux(lab, Kernel::Vmlinux)
}

fn linux(lab: &Lab, kernel: Kernel) -> Result<(), LabError> {
    let journey = Journey::begin(lab, Spec { kernel, ..Spec::linux(1) })?;
    // From the other host: through both bridges.
    let guest = Vmm::guest_through(lab.host("b"));
    let uptime = guest.run("cut -d' ' -f1 /proc/uptime")?;
    let clock = guest.run("cat /sys/devices/system/clocksource/clocksource0/current_clocksource")?;
    guest.run("[ $(head -c 8 /dev/hwrng | wc -c) = 8 ] && [ -e /dev/input/event1 ]")?;
    say(&format!("up after {} s, clock source {}", uptime.trim(), clock.trim()));
    journey.finish().map(|_| ())
}
