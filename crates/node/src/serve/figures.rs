//! Figures of the agent and of the processes that it watches, for Prometheus. Nothing is counted here: each is the kernel's own, so that a
//! restart of the agent loses none.

use std::{collections::BTreeMap, fmt::Write, fs};

use super::{Desk, desk::Seen};

/// The media type of [`text`].
pub(super) const TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What processes have used and have.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Usage {
    cpu_seconds: f64,
    resident_bytes: u64,
}

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
    used.iter().for_each(|(labels, usage)| line(&mut text, name, labels, usage.cpu_seconds));
    let name = "kubevirt_vmi_memory_resident_bytes";
    head(&mut text, name, "gauge", "Memory of the host that the VMM of an instance has.");
    used.iter().for_each(|(labels, usage)| line(&mut text, name, labels, usage.resident_bytes as f64));
    if let Some(own) = usage(std::process::id()) {
        head(&mut text, "process_cpu_seconds_total", "counter", "CPU time of the agent's process.");
        line(&mut text, "process_cpu_seconds_total", "", own.cpu_seconds);
        head(&mut text, "process_resident_memory_bytes", "gauge", "Memory of the agent's process.");
        line(&mut text, "process_resident_memory_bytes", "", own.resident_bytes as f64);
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

/// What a process uses; `None` if it has ended.
fn usage(process: u32) -> Option<Usage> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let memory = fs::read_to_string(format!("/proc/{process}/statm")).ok()?;
    of_process(&stat, &memory, rustix::param::clock_ticks_per_second(), rustix::param::page_size())
}

/// From `/proc/PID/stat` and `statm`.
fn of_process(stat: &str, memory: &str, ticks_per_second: u64, page_size: usize) -> Option<Usage> {
    // The name of the program stands in brackets, and may have some itself.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let user: u64 = fields.nth(11)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let pages: u64 = memory.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(Usage {
        cpu_seconds: user.saturating_add(system) as f64 / ticks_per_second.max(1) as f64,
        resident_bytes: pages.saturating_mul(page_size as u64),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_whose_name_has_brackets_is_read_all_the_same() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 1 0 9 10 11";
        let usage = of_process(stat, "100 25 3 0 0 0 0", 100, 4096);
        assert_eq!(usage, Some(Usage { cpu_seconds: 2.0, resident_bytes: 102_400 }));
        for (stat, memory) in [("", "1 2"), ("7 (a) S 1", "1 2"), (stat, ""), (stat, "1 x")] {
            assert_eq!(of_process(stat, memory, 100, 4096), None);
        }
    }
}
