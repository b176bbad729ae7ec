//! What vCPUs spend their time on besides the guest, as the kernel accounts it.
#![expect(unsafe_code, reason = "clocks of other threads have no names in any crate")]

use std::{os::fd::OwnedFd, time::Duration};

use kvm_ioctls::VcpuFd;
use rustix::{
    fs::{Mode, OFlags},
    io::{pread, read},
};

use crate::kvm::stats_fd;

/// The counter of page faults that KVM resolved, whichever way (Linux, arch/x86/kvm/x86.c).
const FAULTS: &str = "pf_taken";
/// Bytes of the head of KVM's statistics, and of a descriptor without its name (Linux, Documentation/virt/kvm/api.rst, 4.133).
const HEAD_BYTES: usize = 24;
const DESCRIPTOR_BYTES: usize = 16;
/// More descriptors, or longer names, than any kernel has.
const MAX_DESCRIPTORS: usize = 1024;
const MAX_NAME_BYTES: usize = 256;

/// Reads what one vCPU has spent.
#[derive(Debug)]
pub(crate) struct Meter {
    /// KVM's statistics, and where in them the faults are; not on kernels before 5.14.
    faults: Option<(OwnedFd, u64)>,
}

/// What a vCPU has spent since its thread began.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spent {
    /// Page faults of the guest that KVM resolved.
    pub(crate) faults: Option<u64>,
    /// CPU time in the kernel, outside of the guest.
    pub(crate) kernel: Duration,
    /// Time in which it could have run and no CPU was free.
    pub(crate) waiting: Duration,
}

impl Meter {
    /// For this vCPU. What the kernel does not tell is missing in the figures.
    pub(crate) fn new(vcpu: &VcpuFd) -> Self {
        let faults = stats_fd(vcpu).ok().and_then(|fd| {
            let place = find(&fd, FAULTS)?;
            Some((fd, place))
        });
        Self { faults }
    }

    /// Page faults of the guest that KVM resolved.
    pub(crate) fn faults(&self) -> Option<u64> {
        let (fd, place) = self.faults.as_ref()?;
        let mut value = [0; 8];
        (pread(fd, &mut value, *place).ok()? == value.len()).then(|| u64::from_ne_bytes(value))
    }

    /// The figures now. `thread` is the kernel's id of its thread.
    pub(crate) fn read(&self, thread: u32) -> Spent {
        let faults = self.faults();
        let kernel = cpu_time(thread, Clock::UserAndKernel).saturating_sub(cpu_time(thread, Clock::User));
        Spent { faults, kernel, waiting: waiting(thread).unwrap_or_default() }
    }
}

/// Where the value of the statistic `name` is.
fn find(fd: &OwnedFd, name: &str) -> Option<u64> {
    let mut head = [0; HEAD_BYTES];
    if pread(fd, &mut head, 0).ok()? < HEAD_BYTES {
        return None;
    }
    let word = |bytes: &[u8], at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let (name_bytes, count) = (word(&head, 4)? as usize, word(&head, 8)? as usize);
    let (descriptors, data) = (word(&head, 16)?, word(&head, 20)?);
    if name_bytes > MAX_NAME_BYTES || count > MAX_DESCRIPTORS {
        return None;
    }
    let size = DESCRIPTOR_BYTES + name_bytes;
    let mut table = vec![0; size * count];
    let filled = pread(fd, &mut table, descriptors.into()).ok()?;
    let mut all = table[..filled].chunks_exact(size);
    let found = all.find(|descriptor| {
        descriptor[DESCRIPTOR_BYTES..].split(|byte| *byte == 0).next() == Some(name.as_bytes())
    })?;
    Some(u64::from(data) + u64::from(word(found, 8)?))
}

/// Clocks of a thread (Linux, include/linux/posix-timers_types.h: CPUCLOCK_PROF and CPUCLOCK_VIRT).
#[derive(Clone, Copy)]
enum Clock {
    UserAndKernel = 0,
    User = 1,
}

/// Zero for a thread that is gone.
fn cpu_time(thread: u32, clock: Clock) -> Duration {
    const OF_A_THREAD: i32 = 4;
    let id = (!thread.cast_signed() << 3) | OF_A_THREAD | clock as i32;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec, which is there.
    let read = unsafe { libc::clock_gettime(id, &raw mut time) };
    match (read, u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec)) {
        (0, Ok(seconds), Ok(nanoseconds)) => Duration::new(seconds, nanoseconds),
        _ => Duration::ZERO,
    }
}

/// The second number of schedstat is nanoseconds on a run queue (Linux, Documentation/scheduler/sched-stats.rst).
fn waiting(thread: u32) -> Option<Duration> {
    let path = format!("/proc/self/task/{thread}/schedstat");
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut text = [0; 128];
    let length = read(&fd, &mut text).ok()?;
    let nanoseconds = std::str::from_utf8(&text[..length]).ok()?.split_whitespace().nth(1)?.parse().ok()?;
    Some(Duration::from_nanos(nanoseconds))
}
