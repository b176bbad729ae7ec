//! Guests boot.

use super::{PATIENCE, say};
use crate::{Journey, Kernel, Lab, LabError, Spec, Vmm, until};

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

pub(super) fn workload(lab: &Lab) -> Result<(), LabError> {
    let vmm = Vmm::boot(lab, lab.host("a"), &Spec::workload(1, "work=8M rate=8M"))?;
    until("the workload reports", PATIENCE, || {
        let output = vmm.process().output();
        if output.ending.is_some() {
            return Err(LabError::Wrong(format!("{output:?}")));
        }
        Ok(guests_report(&output.out))
    })
    .map(|line| say(&line))
}

fn guests_report(text: &str) -> Option<String> {
    let reports: Vec<_> = text.lines().filter(|line| guests::parse_report(line).is_some()).collect();
    (reports.len() > 3).then(|| reports.last().map(ToString::to_string))?
}
