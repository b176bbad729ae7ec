//! Getting a vCPU out of the guest without losing the request.
//!
//! A request to stop is three steps, in this order: the stop flag is set, `immediate_exit` is set in the vCPU's shared
//! page, a signal is sent. Wherever the vCPU thread is, one of them stops it: before it looks at the flag, the flag;
//! between that and the guest, `immediate_exit`, which makes `KVM_RUN` return at once (Linux,
//! Documentation/virt/kvm/api.rst, 5 "The kvm_run structure"); in the guest, the signal. A request to rest goes the same way, with a
//! flag of its own; whoever finds that `KVM_RUN` was interrupted takes `immediate_exit` back before it looks at the flags.
#![expect(unsafe_code, reason = "one shared page with the kernel, one signal handler")]

use std::{
    io,
    mem::offset_of,
    num::NonZeroUsize,
    os::fd::AsRawFd as _,
    ptr::NonNull,
    sync::{
        OnceLock,
        atomic::{AtomicU8, Ordering},
    },
    thread::JoinHandle,
};

use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;
use vmm_sys_util::{
    errno,
    signal::{self, Killable as _},
};

use crate::kvm::kick_signal;

/// Bytes of the shared page that are mapped: `immediate_exit` is its second byte.
const MAPPED: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

/// `immediate_exit` of one vCPU, in a mapping of its own: it stays valid when the vCPU's thread is gone.
#[derive(Debug)]
pub(super) struct ImmediateExit {
    page: NonNull<u8>,
}

impl ImmediateExit {
    /// Maps the shared page of `vcpu` once more.
    pub(super) fn map(vcpu: &VcpuFd) -> io::Result<Self> {
        // SAFETY: a fresh shared mapping of a vCPU descriptor, whose first page is its `kvm_run`; nothing is replaced.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                MAPPED.get(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                vcpu.as_raw_fd(),
                0,
            )
        };
        match NonNull::new(page.cast()) {
            Some(page) if page.as_ptr() as isize != -1 => Ok(Self { page }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Whether the next `KVM_RUN` returns before it enters the guest.
    pub(super) fn set(&self, on: bool) {
        // SAFETY: the offset is within the mapped page, the page lives as long as `self`, and a byte has no alignment.
        // The kernel and other threads access it at the same time, hence the atomic.
        let flag = unsafe { AtomicU8::from_ptr(self.page.as_ptr().add(offset_of!(kvm_run, immediate_exit))) };
        flag.store(on.into(), Ordering::SeqCst);
    }
}

impl Drop for ImmediateExit {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length, and not used after this.
        unsafe { libc::munmap(self.page.as_ptr().cast(), MAPPED.get()) };
    }
}

// SAFETY: the page is only accessed through an atomic.
unsafe impl Send for ImmediateExit {}
// SAFETY: as above.
unsafe impl Sync for ImmediateExit {}

/// Makes the signal interrupt system calls instead of killing the process. Once per process is enough.
pub(super) fn install_handler() -> Result<(), errno::Error> {
    extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    static INSTALLED: OnceLock<Result<(), errno::Error>> = OnceLock::new();
    *INSTALLED.get_or_init(|| signal::register_signal_handler(kick_signal(), nothing))
}

/// Interrupts the system call that `thread` is in.
pub(super) fn interrupt<T>(thread: &JoinHandle<T>) {
    // Fails only when the thread has ended: the handle keeps its id from being reused, and the number was checked when
    // the handler was installed.
    let _ = thread.kill(kick_signal());
}
