//! CPU time of migration: what a process spends, less what its vCPUs do.
//!
//! Threads of a migration end with it, so the kernel's sum for the process is taken, which keeps the time of threads that
//! have ended. It counts in ticks (10 ms). The vCPUs' own time has nanoseconds.

use std::{fs, time::Duration};

use monitor::types::CpuInfoFast;
use serde_json::Value;

use crate::rig::{Machine, MachineError};

/// What one process had spent at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Spent {
    process: Duration,
    vcpus: Duration,
}

/// The vCPU threads of a machine, and the most that was seen of their time: a machine that has moved away takes its vCPUs
/// down with what they spent.
#[derive(Debug)]
pub(super) struct Vcpus {
    process: u32,
    threads: Vec<u32>,
    seen: Duration,
}

impl Vcpus {
    /// Those that the machine has now.
    pub(super) fn of(machine: &mut Machine) -> Result<Self, MachineError> {
        let cpus = machine.execute("query-cpus-fast", Value::Null)?;
        let cpus: Vec<CpuInfoFast> = serde_json::from_value(cpus).unwrap_or_default();
        let threads = cpus.iter().map(|cpu| cpu.thread_id).collect();
        let mut vcpus = Self { process: machine.process_id(), threads, seen: Duration::ZERO };
        vcpus.look();
        Ok(vcpus)
    }

    /// Takes the time as it is now.
    pub(super) fn look(&mut self) {
        let now = self.threads.iter().filter_map(|thread| thread_time(self.process, *thread)).sum();
        self.seen = self.seen.max(now);
    }

    /// What the process has spent until now.
    pub(super) fn spent(&mut self) -> Spent {
        self.look();
        Spent { process: process_time(self.process).unwrap_or_default(), vcpus: self.seen }
    }
}

impl Spent {
    /// What was spent since, vCPUs left out.
    pub(super) fn beside_vcpus_since(self, earlier: Self) -> Duration {
        let process = self.process.saturating_sub(earlier.process);
        process.saturating_sub(self.vcpus.saturating_sub(earlier.vcpus))
    }
}

/// User and system time of all threads, those that have ended included (`utime` and `stime` in proc_pid_stat(5)).
pub(super) fn process_time(process: u32) -> Option<Duration> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name may contain anything, but no field after it contains a parenthesis. The state is the third field.
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(Duration::from_nanos((user + system) * (1_000_000_000 / rustix::param::clock_ticks_per_second())))
}

/// Time on a CPU in nanoseconds (the first number of `schedstat`; Documentation/scheduler/sched-stats.rst).
fn thread_time(process: u32, thread: u32) -> Option<Duration> {
    let text = fs::read_to_string(format!("/proc/{process}/task/{thread}/schedstat")).ok()?;
    text.split_ascii_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vcpus_are_left_out() {
        let at = |process, vcpus| Spent {
            process: Duration::from_millis(process),
            vcpus: Duration::from_millis(vcpus),
        };
        assert_eq!(at(900, 500).beside_vcpus_since(at(100, 50)), Duration::from_millis(350));
        // Ticks and nanoseconds differ a little.
        assert_eq!(at(100, 55).beside_vcpus_since(at(100, 50)), Duration::ZERO);
    }

    #[test]
    fn work_is_seen_in_the_time_of_this_process() {
        let process = std::process::id();
        let before = process_time(process).unwrap();
        while process_time(process).unwrap() < before + Duration::from_millis(20) {
            std::hint::black_box(fs::read_to_string("/proc/self/stat").unwrap());
        }
        assert!(thread_time(process, process).is_some());
    }
}
