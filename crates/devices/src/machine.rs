/// What a guest asks of its machine through a device. Called on vCPU threads, with the device locked: an implementation
/// takes note and returns; it does not wait for the machine to stop.
pub trait MachineRequests: Send + Sync + std::fmt::Debug {
    /// The guest switched itself off (ACPI S5).
    fn shutdown(&self);

    /// The guest wants to be reset.
    fn reset(&self);
}
