//! Where the guest's port and MMIO accesses go.

use std::sync::Arc;

use devices::BusDevice;
use parking_lot::Mutex;

/// A device as the bus sees it.
pub(crate) type Shared = Arc<Mutex<dyn BusDevice>>;

/// One address space: ranges with a device behind each. Built once, then only read, so lookups take no lock.
#[derive(Default)]
pub(crate) struct Bus {
    /// Sorted by address, without overlap.
    ranges: Vec<Range>,
}

struct Range {
    start: u64,
    bytes: u64,
    device: Shared,
}

impl Bus {
    /// Puts `device` at `start`.
    ///
    /// # Panics
    /// When the range overlaps another: the map of a machine is fixed at compile time ([`crate::arch::layout`]).
    pub(crate) fn insert(&mut self, start: u64, bytes: u64, device: Shared) {
        let index = self.ranges.partition_point(|range| range.start < start);
        let clear_before = index == 0 || {
            let before = &self.ranges[index - 1];
            before.start + before.bytes <= start
        };
        let clear_after = self.ranges.get(index).is_none_or(|after| start + bytes <= after.start);
        assert!(clear_before && clear_after, "two devices at {start:#x}");
        self.ranges.insert(index, Range { start, bytes, device });
    }

    /// The guest reads `data.len()` bytes. Where nothing is, all bits are set, as on a PC's floating bus.
    pub(crate) fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address, data.len()) {
            Some((offset, device)) => device.lock().read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// The guest writes `data`. Where nothing is, nothing happens.
    pub(crate) fn write(&self, address: u64, data: &[u8]) {
        if let Some((offset, device)) = self.find(address, data.len()) {
            device.lock().write(offset, data);
        }
    }

    /// The device that has all of the access; one that straddles two devices reaches none.
    fn find(&self, address: u64, bytes: usize) -> Option<(u64, &Shared)> {
        let index = self.ranges.partition_point(|range| range.start <= address).checked_sub(1)?;
        let range = &self.ranges[index];
        let offset = address - range.start;
        (offset.checked_add(bytes as u64)? <= range.bytes).then_some((offset, &range.device))
    }
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ranges = self.ranges.iter().map(|range| format!("{:#x}+{:#x}", range.start, range.bytes));
        f.debug_list().entries(ranges).finish()
    }
}

/// Both address spaces of a machine.
#[derive(Debug, Default)]
pub(crate) struct Buses {
    /// The 64 Ki I/O ports.
    pub(crate) ports: Bus,
    /// Guest-physical addresses that are not memory.
    pub(crate) mmio: Bus,
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo(Vec<(u64, Vec<u8>)>);
    impl BusDevice for Echo {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(offset.to_le_bytes()[0]);
        }
        fn write(&mut self, offset: u64, data: &[u8]) {
            self.0.push((offset, data.to_vec()));
        }
    }

    fn bus() -> (Bus, Arc<Mutex<Echo>>) {
        let device = Arc::new(Mutex::new(Echo(Vec::new())));
        let mut bus = Bus::default();
        bus.insert(0x200, 0x10, device.clone());
        bus.insert(0x100, 0x100, Arc::new(Mutex::new(Echo(Vec::new()))));
        (bus, device)
    }

    #[test]
    fn an_access_reaches_its_device_at_its_offset() {
        let (bus, device) = bus();
        bus.write(0x20f, &[1]);
        bus.write(0x200, &[2, 3]);
        assert_eq!(device.lock().0, [(0xf, vec![1]), (0, vec![2, 3])]);
    }

    #[test]
    fn nothing_reads_as_ones_and_swallows_writes() {
        let (bus, device) = bus();
        let mut data = [0; 4];
        bus.read(0x210, &mut data);
        bus.write(0xff, &[1]);
        assert_eq!((data, device.lock().0.len()), ([0xff; 4], 0));
    }

    #[test]
    fn an_access_across_the_end_of_a_device_reaches_nothing() {
        let (bus, device) = bus();
        bus.write(0x20e, &[1, 2, 3, 4]);
        bus.read(u64::MAX, &mut [0; 8]);
        assert!(device.lock().0.is_empty());
    }
}
