//! Figures of the agent and of the processes that it watches, for Prometheus. Nothing is counted here: each is the kernel's own or the VMM's, so that
//! a restart of the agent loses none.

use std::{
    collections::BTreeMap,
    fmt::Write,
    time::{Duration, Instant},
};

use super::{
    Desk,
    desk::{Run, Seen},
};
use crate::{
    process::{self, Resident},
    usage::{Disk, Network, disks_of, networks_of},
};

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
    let devices = devices(desk, &seen);
    let name = "kubevirt_vmi_cpu_usage_seconds_total";
    head(&mut text, name, "counter", "CPU time of the VMM of an instance, since it came to this node.");
    used.iter().for_each(|(labels, (seconds, _))| line(&mut text, name, labels, *seconds));
    let name = "kubevirt_vmi_memory_resident_bytes";
    head(&mut text, name, "gauge", "Memory of the host that the VMM of an instance has.");
    used.iter().for_each(|(labels, (_, bytes))| line(&mut text, name, labels, *bytes as f64));
    each(&mut text, &DISK, &devices.disks);
    each(&mut text, &NETWORK, &devices.networks);
    if let Some((seconds, bytes)) = usage(std::process::id()) {
        head(&mut text, "process_cpu_seconds_total", "counter", "CPU time of the agent's process.");
        line(&mut text, "process_cpu_seconds_total", "", seconds);
        head(&mut text, "process_resident_memory_bytes", "gauge", "Memory of the agent's process.");
        line(&mut text, "process_resident_memory_bytes", "", bytes as f64);
    }
    text
}

/// A figure of a device: its name, what it is, and its value.
type Figure<T> = (&'static str, &'static str, fn(&T) -> f64);

/// Of a disk, since the VMM began.
const DISK: [Figure<Disk>; 9] = [
    ("kubevirt_vmi_storage_iops_read_total", "Reads of a disk.", |disk| disk.reads as f64),
    ("kubevirt_vmi_storage_iops_write_total", "Writes to a disk.", |disk| disk.writes as f64),
    ("kubevirt_vmi_storage_read_traffic_bytes_total", "Bytes read from a disk.", |disk| {
        disk.read_bytes as f64
    }),
    ("kubevirt_vmi_storage_write_traffic_bytes_total", "Bytes written to a disk.", |disk| {
        disk.written_bytes as f64
    }),
    ("kubevirt_vmi_storage_read_times_seconds_total", "Time that reads took, all together.", |disk| {
        disk.read_seconds
    }),
    ("kubevirt_vmi_storage_write_times_seconds_total", "Time that writes took, all together.", |disk| {
        disk.write_seconds
    }),
    ("kubevirt_vmi_storage_flush_requests_total", "Flushes of a disk.", |disk| disk.flushes as f64),
    ("kubevirt_vmi_storage_flush_times_seconds_total", "Time that flushes took, all together.", |disk| {
        disk.flush_seconds
    }),
    (
        "whimbrel_vmi_storage_errors_total",
        "Requests of which the guest was told that the image failed.",
        |disk| disk.errors as f64,
    ),
];

/// Of a network card, since its tap interface was made.
const NETWORK: [Figure<Network>; 4] = [
    ("kubevirt_vmi_network_receive_bytes_total", "Bytes that the guest received.", |card| {
        card.received_bytes as f64
    }),
    ("kubevirt_vmi_network_transmit_bytes_total", "Bytes that the guest sent.", |card| {
        card.sent_bytes as f64
    }),
    ("kubevirt_vmi_network_receive_packets_total", "Frames that the guest received.", |card| {
        card.received_frames as f64
    }),
    ("kubevirt_vmi_network_transmit_packets_total", "Frames that the guest sent.", |card| {
        card.sent_frames as f64
    }),
];

/// How long VMMs are asked for what they have counted, all together: those that hang do not keep the figures of others from anybody.
const ASKING: Duration = Duration::from_secs(5);

/// Devices of machines that run, with their labels.
#[derive(Default)]
struct Devices {
    disks: Vec<(String, Disk)>,
    networks: Vec<(String, Network)>,
}

fn devices(desk: &Desk, seen: &[Seen]) -> Devices {
    let begun = Instant::now();
    let node = quoted(desk.node());
    let mut found = Devices::default();
    for vmm in seen.iter().filter(|vmm| vmm.state == "up") {
        let (Some(run), Some(labels)) = (&vmm.instance, labels(&node, vmm)) else { continue };
        let Run { disks: drives, interfaces, .. } = run;
        if !drives.is_empty() && begun.elapsed() < ASKING {
            // One that does not reply, or has just ended, has none for now.
            let disks = disks_of(desk.directory(), &vmm.name).unwrap_or_default();
            found.disks.extend(named(&labels, "drive", drives, disks, |disk| &disk.name));
        }
        if !interfaces.is_empty() {
            let cards = networks_of(desk.directory(), &vmm.name);
            found.networks.extend(named(&labels, "interface", interfaces, cards, |card| &card.name));
        }
    }
    found
}

/// Devices by the names that the object has for them; where they are not as many, by those that the host has.
fn named<T>(
    labels: &str,
    label: &str,
    names: &[String],
    devices: Vec<T>,
    own: fn(&T) -> &String,
) -> Vec<(String, T)> {
    let fits = names.len() == devices.len();
    let with = |(index, device): (usize, T)| {
        let name = if fits { &names[index] } else { own(&device) };
        (format!("{labels},{label}=\"{}\"", quoted(name)), device)
    };
    devices.into_iter().enumerate().map(with).collect()
}

fn each<T>(text: &mut String, figures: &[Figure<T>], devices: &[(String, T)]) {
    for (name, help, value) in figures {
        head(text, name, "counter", help);
        devices.iter().for_each(|(labels, device)| line(text, name, labels, value(device)));
    }
}

fn labels(node: &str, vmm: &Seen) -> Option<String> {
    let Run { namespace, name, .. } = vmm.instance.as_ref()?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_called_as_its_volume_and_its_figures_are_counters() {
        let disk = |name: &str, reads| Disk {
            name: name.to_owned(),
            path: None,
            reads,
            writes: 0,
            flushes: 0,
            read_bytes: 4096 * reads,
            written_bytes: 0,
            read_seconds: 0.25,
            write_seconds: 0.0,
            flush_seconds: 0.0,
            errors: 1,
        };
        let devices = || vec![disk("disk0", 3), disk("disk1", 4)];
        let text = |names: &[&str]| {
            let names: Vec<_> = names.iter().copied().map(str::to_owned).collect();
            let mut text = String::new();
            let disks = named("node=\"a\"", "drive", &names, devices(), |disk| &disk.name);
            each(&mut text, &DISK, &disks);
            text
        };
        let said = text(&["root", "da\"ta"]);
        for line in [
            "# TYPE kubevirt_vmi_storage_iops_read_total counter",
            "kubevirt_vmi_storage_iops_read_total{node=\"a\",drive=\"root\"} 3",
            "kubevirt_vmi_storage_iops_read_total{node=\"a\",drive=\"da\\\"ta\"} 4",
            "kubevirt_vmi_storage_read_traffic_bytes_total{node=\"a\",drive=\"root\"} 12288",
            "kubevirt_vmi_storage_read_times_seconds_total{node=\"a\",drive=\"root\"} 0.25",
            "whimbrel_vmi_storage_errors_total{node=\"a\",drive=\"root\"} 1",
        ] {
            assert!(said.lines().any(|found| found == line), "{line} is not in\n{said}");
        }
        // A VMM that has others than the object says.
        assert!(text(&["root"]).contains("drive=\"disk1\"} 4"));
    }
}
