//! What a thread was about to tell the kernel when it was stopped.
#![expect(unsafe_code, reason = "the kernel passes the context of a thread by its address")]

use std::ffi::c_void;

/// The first three arguments of the system call that a signal handler was called for.
///
/// # Safety
/// `context` is the third argument of a signal handler.
pub(crate) unsafe fn trapped_arguments(context: *const c_void) -> [u64; 3] {
    // SAFETY: the kernel passes a `ucontext_t` there (sigaction(2), SA_SIGINFO), which lives as long as the handler runs.
    let registers = unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    [libc::REG_RDI, libc::REG_RSI, libc::REG_RDX].map(|register| registers[register as usize].cast_unsigned())
}
