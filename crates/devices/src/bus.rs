/// A device on the port or MMIO bus. Called on vCPU threads, with the device locked.
pub trait BusDevice: Send {
    /// The guest reads `data.len()` bytes (1, 2, 4 or 8) at `offset` from the device's base address.
    ///
    /// A register that does not exist reads as zero; this never fails, as hardware never does.
    fn read(&mut self, offset: u64, data: &mut [u8]);

    /// The guest writes `data` at `offset` from the device's base address. Unknown registers ignore the write.
    fn write(&mut self, offset: u64, data: &[u8]);
}
