use vmm_sys_util::signal::{SIGRTMIN, block_signal, unblock_signal};

/// The signal that interrupts `KVM_RUN`: the first that libc leaves to programs.
pub(crate) fn kick_signal() -> i32 {
    SIGRTMIN()
}

/// Does something in which [that signal](kick_signal) must not interrupt this thread; one that comes meanwhile interrupts it afterwards.
pub(super) fn uninterrupted<T>(something: impl FnOnce() -> T) -> T {
    // Where it is blocked already it stays so.
    let is_ours = block_signal(kick_signal()).is_ok();
    let done = something();
    if is_ours {
        // Fails for no signal that could be blocked.
        let _ = unblock_signal(kick_signal());
    }
    done
}
