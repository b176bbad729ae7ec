//! Hosts whose processors are not alike.

use std::{fs, process::Command};

use monitor::types::{MigrationStatus, RunState};

use super::{PATIENCE, check, end, goes_on, say};
use crate::{Host, Journey, Lab, LabError, Spec, Vmm, programs::run};

/// What the older host lacks of the other, of what the emulated processor has at all.
const LACKS: [&str; 4] = ["avx2", "bmi2", "movbe", "sse4.2"];

/// Host `b` as an older one, until this is dropped.
struct Older<'lab>(&'lab Host);

impl<'lab> Older<'lab> {
    fn new(lab: &'lab Lab) -> Result<Self, LabError> {
        let host = lab.host("b");
        host.kill();
        host.lack(&LACKS);
        let older = Self(host);
        lab.revive(host)?;
        Ok(older)
    }
}

impl Drop for Older<'_> {
    fn drop(&mut self) {
        // The next scenario finds it switched off, and switches it on.
        self.0.kill();
        self.0.lack(&[]);
    }
}

pub(super) fn models(lab: &Lab) -> Result<(), LabError> {
    let _older = Older::new(lab)?;
    let cpu = baseline(lab)?;
    there_and_back(lab, &cpu)?;
    upwards_and_not_downwards(lab)
}

/// What both hosts have, as an operator finds it, on a machine that is neither.
fn baseline(lab: &Lab) -> Result<String, LabError> {
    let mut command = Command::new(&lab.images().programs().tool);
    command.arg("cpu-baseline");
    for host in lab.hosts() {
        let file = lab.logs().join(format!("{}-cpu.json", host.name()));
        let said = host.remote().run("whimbrel-vmm --print-cpu")?;
        fs::write(&file, said).map_err(LabError::file("write", &file))?;
        command.arg(file);
    }
    let said = String::from_utf8_lossy(&run(&mut command)?).into_owned();
    let cpu = said.lines().find_map(|line| line.strip_prefix("--cpu "));
    let cpu = cpu.ok_or_else(|| LabError::Wrong(format!("cpu-baseline says '{said}'")))?;
    let limit = said.lines().find(|line| line.starts_with("Host 'b' lacks: ")).unwrap_or_default();
    check(LACKS.iter().all(|name| limit.contains(name)) && !said.contains("Host 'a'"), || {
        format!("It is not host b that is named as the one that lacks {LACKS:?}: {said}")
    })?;
    say(&format!("the hosts have {cpu} in common; {limit}"));
    Ok(cpu.to_owned())
}

/// A Linux guest with what they have in common.
fn there_and_back(lab: &Lab, cpu: &str) -> Result<(), LabError> {
    let mut spec = Spec::linux(1);
    spec.flags.extend(["--cpu".into(), cpu.into()]);
    let mut journey = Journey::begin(lab, spec)?;
    let flags = "grep -m1 ^flags /proc/cpuinfo";
    let before = journey.guest().run(flags)?;
    check(!before.contains("movbe") && !before.contains("sse4_2"), || {
        format!("The guest sees too much: {before}")
    })?;
    let load = journey.in_guest(&["memory", "8", "2"])?;
    load.number("filled", PATIENCE, |filled| filled == 1)?;
    for _ in 0..2 {
        journey.hop()?;
        goes_on(&load, "pages", 2 << 10)?;
    }
    let after = journey.guest().run(flags)?;
    check(before == after, || format!("The guest saw {before} and sees {after}"))?;
    drop(load);
    end(journey)
}

/// With all that a host has, a machine goes to a newer one and back; from the newer one it does not go to an older.
fn upwards_and_not_downwards(lab: &Lab) -> Result<(), LabError> {
    let spec = Spec::workload(1, "work=4M rate=1M own=16M");
    let (a, b) = (lab.host("a"), lab.host("b"));
    let of_old = Vmm::boot(lab, b, &spec)?;
    let above = Vmm::vacancy(lab, a, &spec)?;
    of_old.moves_to(&above)?;
    drop(of_old);
    let back = Vmm::vacancy(lab, b, &spec)?;
    above.moves_to(&back)?;
    drop((above, back));
    let of_new = Vmm::boot(lab, a, &spec)?;
    let below = Vmm::vacancy(lab, b, &spec)?;
    of_new.migrate(&below.listen()?)?;
    let info = of_new.migration_is(MigrationStatus::Failed)?;
    let why = info.error_desc.unwrap_or_default();
    check(LACKS.iter().all(|name| why.contains(name)), || format!("It does not say what is missing: {why}"))?;
    check(of_new.run_state()? == RunState::Running, || "The machine does not run on".into())?;
    say("a machine of the older host goes to the newer and back, one of the newer does not go to the older");
    Ok(())
}
