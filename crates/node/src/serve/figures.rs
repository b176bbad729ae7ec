//! Figures of the agent and of the processes that it watches, for Prometheus. Nothing is counted here: each is the kernel's own, so that a
//! restart of the agent loses none.

use std::{collections::BTreeMap, fmt::Write};

use super::{Desk, desk::Seen};
use crate::process::{self, Resident};

/// The media type of [`text`].
pub(super) const TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All figures.
pub(super) fn text(desk: &Desk) -> String {
    let seen = desk.seen();
    let mut states: BTreeMap<_, u32> = ["prepared", "silent", "up", "ended"].map(|state| (state, 0)).into();
    for vmm in &seen {
        *states.entry(vmm.state).or_default() += 1;
    }
    let node = quoted(desk.node());
    let mut text = String::new();
    head(&mut text, "whimbrel_agent_vmms", "gauge", "VMMs on this node by how the agent sees them.");
    for (state, count) in states {
        line(
            &mut text,
            "whimbrel_agent_vmms",
            &format!("node=\"{node}\",state=\"{state}\""),
            f64::from(count),
        );
    }
    let used: Vec<_> =
        seen.iter().filter_map(|vmm| Some((labels(&node, vmm)?, usage(vmm.process?)?))).collect();
    let name = "kubevirt_vmi_cpu_usage_seconds_total";
    head(&mut text, name, "counter", "CPU time of the VMM of an instance, since it came to this node.");
    used.iter().for_each(|(labels, (seconds, _))| line(&mut text, name, labels, *seconds));
    let name = "kubevirt_vmi_memory_resident_bytes";
    head(&mut text, name, "gauge", "Memory of the host that the VMM of an instance has.");
    used.iter().for_each(|(labels, (_, bytes))| line(&mut text, name, labels, *bytes as f64));
    if let Some((seconds, bytes)) = usage(std::process::id()) {
        head(&mut text, "process_cpu_seconds_total", "counter", "CPU time of the agent's process.");
        line(&mut text, "process_cpu_seconds_total", "", seconds);
        head(&mut text, "process_resident_memory_bytes", "gauge", "Memory of the agent's process.");
        line(&mut text, "process_resident_memory_bytes", "", bytes as f64);
    }
    text
}

fn labels(node: &str, vmm: &Seen) -> Option<String> {
    let (namespace, name) = vmm.instance.as_ref()?;
    Some(format!("node=\"{node}\",namespace=\"{}\",name=\"{}\"", quoted(namespace), quoted(name)))
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(text: &mut String, name: &str, labels: &str, value: f64) {
    let _ = match labels {
        "" => writeln!(text, "{name} {value}"),
        labels => writeln!(text, "{name}{{{labels}}} {value}"),
    };
}

fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// CPU seconds and bytes of memory of a process; `None` if it has ended.
fn usage(process: u32) -> Option<(f64, u64)> {
    let folder = process::folder_of(process);
    Some((process::cpu_seconds(&folder)?, Resident::of(&folder)?.all()))
}
