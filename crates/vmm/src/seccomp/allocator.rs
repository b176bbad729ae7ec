#![expect(unsafe_code, reason = "the allocator is set up by a call of the C library")]

/// Pools of memory that the allocator makes for threads that allocate at the same time (glibc, mallopt(3), M_ARENA_MAX).
/// More would not help: nothing is allocated on a page's way.
const POOLS: libc::c_int = 4;

/// Has the allocator do without knowing how many processors there are, which it would look up in a file when it runs out
/// of pools, on whichever thread that happens.
pub(super) fn settle() {
    // SAFETY: sets a number, before there are other threads. It cannot fail for this parameter.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, POOLS) };
}
