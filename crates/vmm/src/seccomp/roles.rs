//! The kinds of threads, and what each may do.

use libc::c_long;

use super::{calls, ioctls};

/// Linux, include/uapi/linux/prctl.h.
const PR_GET_AUXV: u64 = 0x4155_5856;

/// A kind of thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    /// Everything together, and building machines: the main thread and the launcher.
    Process,
    /// Hears what machines say; may pause them.
    Events,
    /// Hears signals.
    Signals,
    /// Runs a vCPU, and device models whose registers the guest accesses.
    Vcpu,
    /// Works for all devices that are not disks.
    Io,
    /// Works for a disk.
    Disk,
    /// Flushes and locks the image of a disk.
    Storage,
    /// Serves the monitor's clients.
    Monitor,
    /// Runs a migration, on either side.
    Migration,
    /// Carries pages.
    Channel,
    /// Reads the control connection of a migration.
    Control,
    /// Connects to the destination.
    Dial,
    /// Begins to listen for migrations, for which a name may have to be found out.
    Listen,
    /// Accepts connections on the port for migrations.
    Accept,
    /// Finds out who a stranger on that port is.
    Greet,
    /// Hears a running machine wait for pages, and asks its source for them.
    Faults,
    /// Has guest memory populated.
    Populate,
    /// Touches memory of a machine that is still to come, so that no thread of a device waits for it.
    Touch,
    /// Announces a machine to the network, or releases its keys.
    Errand,
    /// Slows vCPUs down.
    Throttle,
    /// Empties dirty rings.
    Rings,
    /// Measures how fast the guest writes its memory.
    Measure,
    /// Writes reports of migrations.
    Report,
    /// Writes the machine to a core file.
    Dump,
    /// Looks at files in storage that may not answer: which image is behind a disk, whether a kernel is what it was, certificates.
    Look,
    /// Writes lines of the log.
    Log,
}

/// What a kind of thread may do.
#[derive(Debug)]
pub(super) struct Allowed {
    /// System calls, with any arguments.
    pub(super) calls: Vec<c_long>,
    /// System calls that may be made if one of their arguments is right.
    pub(super) restricted: Vec<(c_long, Argument)>,
}

/// What an argument must be; arguments are numbered from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Argument {
    /// This value.
    Is(u8, u64),
    /// Without any of these flags.
    Lacks(u8, u64),
    /// With all of these flags.
    Has(u8, u64),
}

impl Role {
    /// All of them.
    pub(super) const ALL: [Self; 26] = [
        Self::Process,
        Self::Events,
        Self::Signals,
        Self::Vcpu,
        Self::Io,
        Self::Disk,
        Self::Storage,
        Self::Monitor,
        Self::Migration,
        Self::Channel,
        Self::Control,
        Self::Dial,
        Self::Listen,
        Self::Accept,
        Self::Greet,
        Self::Faults,
        Self::Populate,
        Self::Touch,
        Self::Errand,
        Self::Measure,
        Self::Throttle,
        Self::Rings,
        Self::Report,
        Self::Dump,
        Self::Look,
        Self::Log,
    ];

    /// A word for messages.
    pub(super) fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    pub(super) fn allowed(self) -> Allowed {
        match self {
            Self::Process => process(),
            // The C library loads modules that find names.
            _ => Allowed::new(&self.calls(), &self.ioctls(), matches!(self, Self::Dial | Self::Listen)),
        }
    }

    fn calls(self) -> Vec<&'static [c_long]> {
        use calls::{
            ACCEPT, CERTIFICATES, CONNECT, DROP, FILES, FLUSH, HOLES, LAND, PUNCH, RESOLVE, TALK, THREADS,
            TRANSFER, WAIT,
        };
        match self {
            Self::Process => vec![calls::BUILD],
            Self::Events => vec![DROP, FLUSH],
            Self::Signals => vec![WAIT, TALK, &[libc::SYS_kill]],
            // Whatever the guest sends goes out at once, and a serial port may take its next client.
            Self::Vcpu => vec![TALK, WAIT, ACCEPT, PUNCH],
            Self::Io => vec![TALK, WAIT, ACCEPT, TRANSFER, PUNCH, &[libc::SYS_epoll_create1]],
            Self::Disk => vec![WAIT, TRANSFER, PUNCH, FLUSH, HOLES],
            // Locks of disks are fcntl. It may hold one last.
            Self::Storage => vec![FLUSH, DROP],
            // The threads of the process are listed from its directory in /proc.
            Self::Monitor => {
                let own = &[libc::SYS_eventfd2, libc::SYS_getdents64];
                vec![TALK, WAIT, ACCEPT, THREADS, DROP, FLUSH, CERTIFICATES, own]
            }
            // Locks of disks are fcntl; statistics of vCPUs are read at an offset. What was never touched need not follow a machine, and
            // what is to follow one is taken out of its reach.
            Self::Migration => {
                let own = &[
                    libc::SYS_pread64,
                    libc::SYS_eventfd2,
                    libc::SYS_fstatfs,
                    libc::SYS_pidfd_open,
                    libc::SYS_process_madvise,
                ];
                vec![TALK, WAIT, CONNECT, DROP, FLUSH, PUNCH, HOLES, own]
            }
            // Pages that nobody waits for give way to the machine that lacks them.
            Self::Channel => {
                vec![TALK, WAIT, HOLES, PUNCH, LAND, &[libc::SYS_getpriority, libc::SYS_setpriority]]
            }
            Self::Control => vec![TALK],
            Self::Dial => vec![TALK, WAIT, CONNECT, RESOLVE, CERTIFICATES],
            Self::Listen => {
                let own = &[libc::SYS_listen, libc::SYS_eventfd2, libc::SYS_unlink];
                vec![TALK, WAIT, CONNECT, RESOLVE, CERTIFICATES, own]
            }
            Self::Accept => vec![TALK, WAIT, ACCEPT, DROP],
            Self::Greet => vec![TALK, CERTIFICATES],
            Self::Faults => vec![TALK, PUNCH],
            Self::Populate => Vec::new(),
            // The queue of a device is notified. It may hold the device last.
            Self::Touch => vec![DROP],
            Self::Errand => vec![DROP],
            // These may hold the machine last.
            Self::Throttle => vec![DROP],
            // It may hold the last of the VM.
            Self::Rings => vec![DROP],
            Self::Measure => vec![HOLES, DROP],
            // It may hold the machine last.
            Self::Report => vec![FILES, FLUSH, DROP],
            // It lets the machine run afterwards, and may hold it last.
            Self::Dump => vec![FILES, FLUSH, TRANSFER, DROP],
            // It may hold a lock last.
            Self::Look => vec![HOLES, DROP, CERTIFICATES],
            Self::Log => Vec::new(),
        }
    }

    fn ioctls(self) -> Vec<&'static [u64]> {
        use ioctls::{
            CAPABILITIES, CLEAR_DIRTY_LOG, DIRTY_LOG, NON_BLOCKING, PAGE_FAULTS, RESET_DIRTY_RINGS, RESOLVE,
            RUN, SAVE_CHIPS, TAP_FEATURES, UNACKNOWLEDGED, VCPU_STATE,
        };
        match self {
            Self::Process => vec![ioctls::BUILD],
            Self::Vcpu => vec![RUN, RESET_DIRTY_RINGS, VCPU_STATE, TAP_FEATURES, NON_BLOCKING],
            // The features are settled when the guest first uses its card.
            Self::Io => vec![TAP_FEATURES, NON_BLOCKING],
            Self::Monitor | Self::Accept => vec![NON_BLOCKING],
            Self::Migration => {
                vec![
                    DIRTY_LOG,
                    CLEAR_DIRTY_LOG,
                    RESET_DIRTY_RINGS,
                    SAVE_CHIPS,
                    CAPABILITIES,
                    NON_BLOCKING,
                    PAGE_FAULTS,
                ]
            }
            Self::Channel => vec![CLEAR_DIRTY_LOG, RESET_DIRTY_RINGS, PAGE_FAULTS, UNACKNOWLEDGED],
            Self::Faults => vec![PAGE_FAULTS],
            Self::Measure => vec![DIRTY_LOG, CLEAR_DIRTY_LOG, RESET_DIRTY_RINGS],
            Self::Rings => vec![RESET_DIRTY_RINGS],
            Self::Dial | Self::Listen => vec![NON_BLOCKING, RESOLVE],
            Self::Events
            | Self::Signals
            | Self::Disk
            | Self::Storage
            | Self::Control
            | Self::Greet
            | Self::Populate
            | Self::Touch
            | Self::Errand
            | Self::Throttle
            | Self::Report
            | Self::Dump
            | Self::Look
            | Self::Log => Vec::new(),
        }
    }
}

/// All that any thread may do, as no thread can do more than the process.
fn process() -> Allowed {
    let all: Vec<_> = Role::ALL.into_iter().flat_map(Role::calls).collect();
    // vCPUs come first: what they call most is found fastest.
    let mut ioctls = Role::Vcpu.ioctls();
    ioctls.extend(Role::ALL.into_iter().flat_map(Role::ioctls));
    let mut allowed = Allowed::new(&all, &ioctls, true);
    let no_new_privileges = Argument::Is(0, libc::PR_SET_NO_NEW_PRIVS as u64);
    allowed.restricted.push((libc::SYS_prctl, no_new_privileges));
    allowed
}

impl Allowed {
    fn new(calls: &[&[c_long]], ioctls: &[&[u64]], loads_modules: bool) -> Self {
        let mut all: Vec<_> = calls.iter().copied().chain([calls::ANY]).flatten().copied().collect();
        all.sort_unstable();
        all.dedup();
        let mut requests: Vec<u64> = Vec::new();
        for request in ioctls.iter().copied().chain([ioctls::TERMINAL]).flatten() {
            if !requests.contains(request) {
                requests.push(*request);
            }
        }
        let mut restricted: Vec<_> =
            requests.into_iter().map(|request| (libc::SYS_ioctl, Argument::Is(1, request))).collect();
        // The C library's allocator counts processors, and a panic reads debug information, on whichever thread it happens.
        // A guest must not end for that; what can be read without a descriptor to write to does it no harm.
        // Kernels before 6.4 have no PR_GET_AUXV, and /proc/self/auxv is opened instead, in the old way.
        let read_only = (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC) as u64;
        for (open, flags) in [(libc::SYS_openat, 2), (libc::SYS_open, 1)] {
            if !all.contains(&open) {
                restricted.push((open, Argument::Lacks(flags, read_only)));
            }
        }
        if loads_modules {
            all.extend([libc::SYS_mmap, libc::SYS_mprotect]);
        } else {
            // No memory is made that can be executed.
            let no_code = Argument::Lacks(2, libc::PROT_EXEC as u64);
            restricted.extend([(libc::SYS_mmap, no_code), (libc::SYS_mprotect, no_code)]);
        }
        restricted.extend([
            // The standard library makes sure that what it closes is open, in builds with debug assertions.
            (libc::SYS_fcntl, Argument::Is(1, libc::F_GETFD as u64)),
            // Page size and the like, asked for when they are first needed.
            (libc::SYS_prctl, Argument::Is(0, PR_GET_AUXV)),
            (libc::SYS_prctl, Argument::Is(0, libc::PR_GET_NAME as u64)),
            (libc::SYS_prctl, Argument::Is(0, libc::PR_SET_NAME as u64)),
        ]);
        if all.contains(&libc::SYS_clone3) {
            // Threads, not processes. Of clone3 a filter cannot see that: its flags are behind a pointer.
            restricted.push((libc::SYS_clone, Argument::Has(0, libc::CLONE_THREAD as u64)));
        }
        Self { calls: all, restricted }
    }
}
