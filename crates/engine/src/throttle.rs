use std::time::Duration;

/// What slows the vCPUs of a machine down, so that it dirties its memory more slowly.
///
/// A migration sets shares anew several times a second as long as it wants them, and to zero at its end, whatever that is. What it has
/// not set for some seconds should count as zero: whoever set it may hang.
pub trait Throttle: Send + Sync {
    /// Takes from each vCPU, in their order, this share of its time from now on: 0 to 0.99, of which 0 takes nothing. In pieces of no
    /// more than 10 ms, so that a guest is slow and not stuck.
    fn set(&self, shares: &[f64]);

    /// What each vCPU has dirtied and lost, in their order.
    fn vcpus(&self) -> Vec<VcpuLoad>;
}

/// What a vCPU has dirtied and lost, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VcpuLoad {
    /// Its page faults that the hypervisor resolved, most of which are first writes to a page while the dirty log is on; `None` where
    /// that is not known.
    pub faults: Option<u64>,
    /// Time that was taken from it.
    pub taken: Duration,
}
