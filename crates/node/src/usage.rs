//! What a machine uses of its host: counters, so that whoever looks twice has true rates.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use config::{MemorySize, RawConfig};
use monitor::{
    Client, ClientError,
    types::{BalloonInfo, BlockStats, CpuInfoFast, DirtyRateInfo, DirtyRateRequest, DirtyRateStatus},
};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    folder::Folder,
    process::{self, Resident, field},
    tap,
};

/// How long a monitor may take for each command.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long the guest's writes are looked at, in milliseconds: shorter than people look again.
const DIRTY_MS: u64 = 800;
/// Pages that are looked at, of all memory together: more show no more.
const DIRTY_PAGES: u64 = 8192;
/// Seconds from the beginning of a measurement to that of the next, whoever asked for it.
const DIRTY_AGAIN: u64 = 10;

/// Counters of a machine. They begin anew with each VMM.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Usage {
    /// The VMM that they are of.
    pub(crate) vmm: String,
    /// When they were read, in seconds of the host's monotonic clock.
    pub(crate) at_seconds: f64,
    /// CPU time.
    pub(crate) cpu: Cpu,
    /// Memory of the host.
    pub(crate) memory: Memory,
    /// What the VMM has read from and written to storage; absent where the host does not count it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) storage: Option<Storage>,
    /// What the guest asked of each disk, in order; absent where the VMM is of a release that does not count it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) disks: Option<Vec<Disk>>,
    /// Its network cards that are on a tap interface.
    pub(crate) networks: Vec<Network>,
    /// Bytes that the guest writes each second, each page counting once in a measurement of 0.8 s: of a sample, so that little is not seen.
    /// Absent while it is not known, and where it was not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dirty_bytes_per_second: Option<u64>,
}

/// CPU time since the VMM began.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cpu {
    /// vCPUs.
    pub(crate) vcpus: usize,
    /// Seconds that their threads ran; absent where the host does not count it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) vcpu_seconds: Option<f64>,
    /// Seconds that all threads of the VMM ran, also those that have ended.
    pub(crate) vmm_seconds: f64,
}

/// Memory of the host that is in use now, in bytes.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Memory {
    /// What the guest has, what its balloon took taken off; absent where it has no balloon.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) guest_bytes: Option<u64>,
    /// Memory of the guest that is there: what it has touched.
    pub(crate) touched_bytes: u64,
    /// What the VMM needs beside it.
    pub(crate) vmm_bytes: u64,
}

/// What went to and came from storage, in bytes. What the host's page cache had is not in it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Storage {
    /// Read.
    pub(crate) read_bytes: u64,
    /// Written.
    pub(crate) written_bytes: u64,
}

/// What a guest asked of a disk and got, the host's page cache included. Counted by the VMM.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Disk {
    /// What the VMM calls it.
    pub(crate) name: String,
    /// Its image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<String>,
    /// Reads.
    pub(crate) reads: u64,
    /// Writes.
    pub(crate) writes: u64,
    /// Flushes.
    pub(crate) flushes: u64,
    /// Bytes read.
    pub(crate) read_bytes: u64,
    /// Bytes written.
    pub(crate) written_bytes: u64,
    /// Seconds that reads took, all together.
    pub(crate) read_seconds: f64,
    /// Seconds that writes took.
    pub(crate) write_seconds: f64,
    /// Seconds that flushes took.
    pub(crate) flush_seconds: f64,
    /// Requests of which the guest was told that the image failed.
    pub(crate) errors: u64,
}

/// What went through a network card, by the host's counters of its tap interface: as the guest sees it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Network {
    /// The tap interface.
    pub(crate) name: String,
    /// Bytes that the guest received.
    pub(crate) received_bytes: u64,
    /// Bytes that the guest sent.
    pub(crate) sent_bytes: u64,
    /// Frames that the guest received.
    pub(crate) received_frames: u64,
    /// Frames that the guest sent.
    pub(crate) sent_frames: u64,
}

/// Why there are no figures of a machine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UsageError {
    /// There is no such VMM on the node, or no longer.
    #[error("there is no VMM {0} on this node")]
    Gone(String),
    /// It does not reply.
    #[error("its VMM does not reply")]
    Silent(#[from] ClientError),
}

/// What the machine in a VMM uses. Takes a few milliseconds; two seconds at most where its monitor hangs. How fast the guest writes is
/// measured where it is wanted: that reads and hashes pages.
///
/// # Errors
/// There is no such VMM, or its monitor does not reply.
pub(crate) fn usage(directory: &Path, vmm: &str, wants_dirty: bool) -> Result<Usage, UsageError> {
    let gone = || UsageError::Gone(vmm.to_owned());
    let folder = Folder::new(directory, vmm).filter(|folder| folder.monitor().exists()).ok_or_else(gone)?;
    let mut client = Client::connect(&folder.monitor(), PATIENCE)?;
    let vcpus: Vec<CpuInfoFast> = client.query("query-cpus-fast", Value::Null)?;
    let threads: Vec<_> = vcpus.iter().map(|vcpu| vcpu.thread_id).collect();
    let process = threads.first().and_then(|thread| process_of(*thread)).ok_or_else(gone)?;
    // Without a balloon this is an error, and nothing is wrong.
    let balloon: Option<BalloonInfo> = client.query("query-balloon", Value::Null).ok();
    // A VMM of an earlier release has no such command.
    let stats: Option<Vec<BlockStats>> = client.query("query-blockstats", Value::Null).ok();
    let now = clock_gettime(ClockId::Monotonic);
    let machine = description(&folder);
    let size = machine.as_ref().and_then(|machine| machine.memory).unwrap_or(MemorySize::DEFAULT).bytes();
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let dirty = wants_dirty.then(|| dirty_rate(&mut client, size, seconds)).flatten();
    Ok(Usage {
        vmm: vmm.to_owned(),
        at_seconds: now.tv_sec as f64 + now.tv_nsec as f64 / 1e9,
        cpu: cpu(&process, &threads).ok_or_else(gone)?,
        memory: memory(&process, balloon).ok_or_else(gone)?,
        storage: storage(&process),
        disks: stats.map(|stats| disks(stats, machine.as_ref())),
        networks: machine.map(|machine| networks(&folder, &machine)).unwrap_or_default(),
        dirty_bytes_per_second: dirty,
    })
}

/// What a machine asked of its disks, in order; none where the VMM is of a release that does not count it. Takes [`PATIENCE`] for each of two steps where its
/// monitor hangs.
///
/// # Errors
/// There is no such VMM, or its monitor does not reply.
pub(crate) fn disks_of(directory: &Path, vmm: &str) -> Result<Vec<Disk>, UsageError> {
    let gone = || UsageError::Gone(vmm.to_owned());
    let folder = Folder::new(directory, vmm).filter(|folder| folder.monitor().exists()).ok_or_else(gone)?;
    let mut client = Client::connect(&folder.monitor(), PATIENCE)?;
    let stats: Option<Vec<BlockStats>> = client.query("query-blockstats", Value::Null).ok();
    Ok(stats.map(|stats| disks(stats, None)).unwrap_or_default())
}

/// What went through the network cards of a machine that are on a tap interface.
pub(crate) fn networks_of(directory: &Path, vmm: &str) -> Vec<Network> {
    let folder = Folder::new(directory, vmm);
    let of = |folder: Folder| Some(networks(&folder, &description(&folder)?));
    folder.and_then(of).unwrap_or_default()
}

/// The folder in `/proc` of the process that a thread is of.
fn process_of(thread: u32) -> Option<PathBuf> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    field(&status, "Tgid:")?.try_into().ok().map(process::folder_of)
}

fn cpu(process: &Path, threads: &[u32]) -> Option<Cpu> {
    let ran = |thread: &u32| {
        let text = fs::read_to_string(process.join(format!("task/{thread}/schedstat"))).ok()?;
        text.split_ascii_whitespace().next()?.parse::<u64>().ok()
    };
    let vcpus: Option<u64> = threads.iter().map(ran).sum();
    Some(Cpu {
        vcpus: threads.len(),
        vcpu_seconds: vcpus.map(|nanos| nanos as f64 / 1e9),
        vmm_seconds: process::cpu_seconds(process)?,
    })
}

fn memory(process: &Path, balloon: Option<BalloonInfo>) -> Option<Memory> {
    let resident = Resident::of(process)?;
    Some(Memory {
        guest_bytes: balloon.map(|balloon| balloon.actual),
        touched_bytes: resident.shared,
        vmm_bytes: resident.own,
    })
}

fn storage(process: &Path) -> Option<Storage> {
    let io = fs::read_to_string(process.join("io")).ok()?;
    Some(Storage { read_bytes: field(&io, "read_bytes:")?, written_bytes: field(&io, "write_bytes:")? })
}

fn disks(stats: Vec<BlockStats>, machine: Option<&RawConfig>) -> Vec<Disk> {
    let path = |index: usize| Some(machine?.disks.get(index)?.path.to_string());
    let disk = |(index, BlockStats { device, stats, .. }): (usize, BlockStats)| Disk {
        name: device,
        path: path(index),
        reads: stats.rd_operations,
        writes: stats.wr_operations,
        flushes: stats.flush_operations,
        read_bytes: stats.rd_bytes,
        written_bytes: stats.wr_bytes,
        read_seconds: stats.rd_total_time_ns as f64 / 1e9,
        write_seconds: stats.wr_total_time_ns as f64 / 1e9,
        flush_seconds: stats.flush_total_time_ns as f64 / 1e9,
        errors: stats.failed_rd_operations
            + stats.failed_wr_operations
            + stats.failed_flush_operations
            + stats.failed_unmap_operations,
    };
    stats.into_iter().enumerate().map(disk).collect()
}

fn description(folder: &Folder) -> Option<RawConfig> {
    let text = fs::read_to_string(folder.description()).ok()?;
    RawConfig::from_yaml(&text, "the machine's description").ok()
}

/// A tap that the VMM has inherited is one that the agent has made, by a name that it knows.
fn networks(folder: &Folder, machine: &RawConfig) -> Vec<Network> {
    let taps = machine.nets.iter().enumerate().map(|(index, net)| match &net.tap {
        Some(tap) => tap.as_str().to_owned(),
        None => tap::name(folder.path(), index),
    });
    taps.filter_map(|tap| network(&tap)).collect()
}

/// What the host receives from a tap interface is what the guest sent.
fn network(tap: &str) -> Option<Network> {
    let folder = Path::new("/sys/class/net").join(tap).join("statistics");
    let count = |name: &str| fs::read_to_string(folder.join(name)).ok()?.trim().parse().ok();
    Some(Network {
        name: tap.to_owned(),
        received_bytes: count("tx_bytes")?,
        sent_bytes: count("rx_bytes")?,
        received_frames: count("tx_packets")?,
        sent_frames: count("rx_packets")?,
    })
}

/// The last measurement, if there was one; another is begun where that one is old. One that is under way, and a machine that cannot be
/// measured now, are no errors.
fn dirty_rate(client: &mut Client, memory: u64, now: u64) -> Option<u64> {
    let last: DirtyRateInfo = client.query("query-dirty-rate", Value::Null).ok()?;
    if is_old(&last, now) {
        let request = json!({ "calc-time": DIRTY_MS, "calc-time-unit": "millisecond", "sample-pages": pages_of_gib(memory) });
        let _ = client.execute("calc-dirty-rate", request);
    }
    last.dirty_rate.map(|mebibytes| mebibytes << 20)
}

/// Whether a measurement, by whomever, is followed by another.
fn is_old(last: &DirtyRateInfo, now: u64) -> bool {
    match last.status {
        DirtyRateStatus::Unstarted => true,
        DirtyRateStatus::Measuring => false,
        DirtyRateStatus::Measured => now.saturating_sub(last.start_time) >= DIRTY_AGAIN,
    }
}

/// Pages of each GiB that are looked at, of a machine with so many bytes of memory.
fn pages_of_gib(memory: u64) -> u64 {
    let (least, most) = (*DirtyRateRequest::SAMPLE_PAGES.start(), *DirtyRateRequest::SAMPLE_PAGES.end());
    (DIRTY_PAGES / memory.div_ceil(1 << 30).max(1)).clamp(least, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_figures() {
        let thread = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        let process = process_of(thread).unwrap();
        assert_eq!(process, PathBuf::from(format!("/proc/{}", std::process::id())));
        // A thread that has not been off its CPU yet has no time to its account: it is looked at until it has, which is work.
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while cpu(&process, &[thread]).unwrap().vcpu_seconds == Some(0.0) {
            assert!(std::time::Instant::now() < deadline, "this thread has no CPU time");
        }
        assert!(memory(&process, None).unwrap().vmm_bytes > 0);
    }

    #[test]
    fn a_machine_that_is_not_there_has_none() {
        let folder = tempfile::tempdir().unwrap();
        for vmm in ["busy-1", "..", "", "a/b"] {
            let error = usage(folder.path(), vmm, true).unwrap_err().to_string();
            assert!(error.contains("there is no VMM"), "{error}");
        }
    }

    #[test]
    fn a_guest_is_measured_again_after_a_while_and_by_fewer_pages_the_larger_it_is() {
        let at = |status| DirtyRateInfo { status, start_time: 100, ..DirtyRateInfo::default() };
        let measured = [100, 109, 110].map(|now| is_old(&at(DirtyRateStatus::Measured), now));
        assert_eq!(measured, [false, false, true]);
        assert!(is_old(&at(DirtyRateStatus::Unstarted), 0) && !is_old(&at(DirtyRateStatus::Measuring), 900));
        let pages = [0, 1, 2, 16, 1024].map(|gib| pages_of_gib(gib << 30));
        assert_eq!(pages, [4096, 4096, 4096, 512, 128]);
    }
}
