use std::io;

/// The log of pages that vCPUs wrote, as a hypervisor keeps it.
///
/// The contract is that of KVM with `KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2` and `KVM_DIRTY_LOG_INITIALLY_SET`
/// (Linux, Documentation/virt/kvm/api.rst, 4.117 and 7.18): reading the log does not re-arm it; a page that was reported
/// is reported again until it is cleared, and its writes are only noticed again after it was cleared.
///
/// Blocks are numbered as in [`Ram::blocks`](crate::Ram::blocks). Bit `n % 64` of word `n / 64` stands for page `n`.
pub trait DirtyLog: Send + Sync {
    /// Starts logging. Every page counts as dirty from here on, until it is cleared for the first time.
    fn start(&self) -> io::Result<()>;

    /// Stops logging and frees what it took. May be called when logging is off.
    fn stop(&self) -> io::Result<()>;

    /// Overwrites `bits`, one bit per page of the block, with the pages written since they were last cleared.
    fn fetch(&self, block: usize, bits: &mut [u64]) -> io::Result<()>;

    /// Clears and re-arms those of the `pages` pages from `first_page` on whose bit is set in `bits`.
    ///
    /// `first_page` is a multiple of 64 and is bit 0 of `bits[0]`; `pages` is a multiple of 64 or reaches the end of the
    /// block. Must be called **before** the pages are read: a write between the two is then in the next log.
    /// Called from several threads at once, for different pages.
    fn clear(&self, block: usize, first_page: u64, pages: u64, bits: &[u64]) -> io::Result<()>;
}
