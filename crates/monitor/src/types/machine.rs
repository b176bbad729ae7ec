use serde::{Deserialize, Serialize};

/// What `query-version` returns, and part of the greeting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionInfo {
    /// The release of QEMU whose QMP this monitor follows. Clients read it to decide what they may send.
    pub qemu: QemuVersion,
    /// The program that really answers, with its own version.
    pub package: String,
}

/// A release of QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QemuVersion {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Micro number.
    pub micro: u32,
}

impl Default for VersionInfo {
    /// QEMU 9.1 is the release that lacks what this monitor lacks (`singlestep`, `skipped`, block migration) and has what
    /// it has (`avail-switchover-bandwidth`, the list of channels of `migrate`).
    fn default() -> Self {
        Self {
            qemu: QemuVersion { major: 9, minor: 1, micro: 0 },
            package: format!("whimbrel {}", release::VERSION),
        }
    }
}

/// What `query-balloon` returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonInfo {
    /// Bytes of memory that the guest has, the balloon's taken off.
    pub actual: u64,
}

/// What `query-name` returns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameInfo {
    /// The machine's name, if it was given one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// What `query-uuid` returns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UuidInfo {
    /// The machine's UUID in its usual form; all zero if it has none.
    #[serde(rename = "UUID")]
    pub uuid: String,
}

/// One element of what `query-cpus-fast` returns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CpuInfoFast {
    /// Number of the vCPU, from 0.
    pub cpu_index: u32,
    /// Where the vCPU stands in QEMU's object tree. Whimbrel has no such tree; clients use the path as a name.
    pub qom_path: String,
    /// The host's thread id of the vCPU's thread, as for `sched_setaffinity`.
    pub thread_id: u32,
    /// The guest's architecture.
    pub target: String,
}

/// One element of what `query-whimbrel-threads` returns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ThreadInfo {
    /// What the thread is for, in at most 15 bytes; `docs/pinning.md` lists the names.
    pub name: String,
    /// The host's thread id, as for `sched_setaffinity`.
    pub thread_id: u32,
}

impl CpuInfoFast {
    /// A vCPU of an x86-64 machine.
    pub fn x86_64(cpu_index: u32, thread_id: u32) -> Self {
        Self {
            cpu_index,
            qom_path: format!("/machine/cpu[{cpu_index}]"),
            thread_id,
            target: "x86_64".to_owned(),
        }
    }
}
