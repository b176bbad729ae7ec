//! System calls, in groups that are needed together.

use libc::c_long;

/// What every thread needs, mostly behind one's back: the allocator, locks, the start and end of threads, clocks, logging, a
/// panic and an abort.
pub(super) const ANY: &[c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    // The terminal is put back by whoever ends the process, in a signal handler too.
    libc::SYS_getpgrp,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    // The log waits for room where standard error was made non-blocking by those who share it.
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Dropping a machine, with the locks of its disks. It is dropped by whoever held it last.
pub(super) const DROP: &[c_long] =
    &[libc::SYS_fcntl, libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_statx, libc::SYS_unlink];

/// Pausing a machine flushes its disks.
pub(super) const FLUSH: &[c_long] = &[libc::SYS_fdatasync, libc::SYS_fsync];

/// Making files in a directory, whole or not at all.
pub(super) const FILES: &[c_long] = &[libc::SYS_openat, libc::SYS_renameat, libc::SYS_unlinkat];

/// Reading certificates and keys. That files are opened to be read is allowed to every thread.
pub(super) const CERTIFICATES: &[c_long] = &[libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_statx];

/// Starting threads.
pub(super) const THREADS: &[c_long] = &[libc::SYS_clone3];

/// Waiting for descriptors.
pub(super) const WAIT: &[c_long] =
    &[libc::SYS_epoll_ctl, libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2, libc::SYS_epoll_wait];

/// Sending and receiving on sockets that are connected.
pub(super) const TALK: &[c_long] = &[
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
];

/// Taking connections.
pub(super) const ACCEPT: &[c_long] = &[libc::SYS_accept4, libc::SYS_fcntl];

/// Making connections to addresses that are known.
pub(super) const CONNECT: &[c_long] = &[libc::SYS_connect, libc::SYS_fcntl, libc::SYS_socket];

/// Finding an address by its name: the C library reads its configuration, loads modules, and asks name servers or the daemons
/// of the host.
pub(super) const RESOLVE: &[c_long] = &[
    libc::SYS_access,
    libc::SYS_bind,
    libc::SYS_epoll_create1,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_getdents64,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getuid,
    libc::SYS_lseek,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_pread64,
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_sendmmsg,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_sysinfo,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_uname,
];

/// Moving bytes between guest memory and files or taps.
pub(super) const TRANSFER: &[c_long] = &[
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_readv,
];

/// Giving room back: of an image, or of guest memory that is a file.
pub(super) const PUNCH: &[c_long] = &[libc::SYS_fallocate];

/// Putting pages that have come into guest memory that is a file.
pub(super) const LAND: &[c_long] = &[libc::SYS_pwrite64];

/// Asking which pages of a file are there, and how long it is.
pub(super) const HOLES: &[c_long] = &[libc::SYS_lseek, libc::SYS_pread64];

/// Building a machine: opening what it needs, making its memory and threads.
pub(super) const BUILD: &[c_long] = &[
    libc::SYS_dup,
    libc::SYS_epoll_create1,
    libc::SYS_eventfd2,
    libc::SYS_fchmod,
    libc::SYS_flock,
    libc::SYS_fstatfs,
    libc::SYS_ftruncate,
    libc::SYS_kill,
    libc::SYS_listen,
    libc::SYS_lseek,
    libc::SYS_memfd_create,
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_pipe2,
    libc::SYS_prlimit64,
    libc::SYS_seccomp,
    libc::SYS_socketpair,
    libc::SYS_umask,
];
