/// An edge-triggered interrupt line of a device. On KVM this is an irqfd.
pub trait Interrupt: Send + Sync + std::fmt::Debug {
    /// Raises the interrupt once. Never blocks; an edge that is already pending swallows this one.
    fn trigger(&self);
}

/// An eventfd is an interrupt line: writing it is what KVM's irqfd and the tests listen to.
impl Interrupt for vmm_sys_util::eventfd::EventFd {
    fn trigger(&self) {
        // Fails only when the counter is at its maximum, and then the edge is pending anyway.
        let _ = self.write(1);
    }
}
