//! A guest for tests: a driver that sets up a device through its registers and works on real rings in real memory.

use std::sync::Arc;

use ram::{Backing, BlockLayout, Ram};
use state::DeviceState;
use virtio_bindings::{
    virtio_config::{
        VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
        VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_F_VERSION_1,
    },
    virtio_mmio::*,
    virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE},
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, bitmap::Bitmap};
use vmm_sys_util::eventfd::EventFd;

use super::{RestoreError, VirtioDevice, VirtioMmio, feature};
use crate::{BusDevice, GuestMemory, Invalid, IoDevice, Lifecycle};

/// Where tests put their buffers; rings are below.
pub(crate) const DATA: u64 = 0x10_0000;
const MEMORY_BYTES: u64 = 16 << 20;

/// One descriptor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Desc {
    pub(crate) address: u64,
    pub(crate) bytes: u32,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

/// A buffer for the device to read.
pub(crate) fn readable(address: u64, bytes: u32) -> Desc {
    Desc { address, bytes, flags: 0, next: 0 }
}

/// A buffer for the device to write.
pub(crate) fn writable(address: u64, bytes: u32) -> Desc {
    Desc { address, bytes, flags: VRING_DESC_F_WRITE as u16, next: 0 }
}

/// A table of descriptors elsewhere.
pub(crate) fn indirect(address: u64, bytes: u32) -> Desc {
    Desc { address, bytes, flags: VRING_DESC_F_INDIRECT as u16, next: 0 }
}

/// What the driver remembers of a queue.
#[derive(Clone, Copy, Debug, Default)]
struct Ring {
    size: u16,
    next_descriptor: u16,
    available: u16,
    used: u16,
}

/// A machine with one device.
pub(crate) struct Guest<D> {
    pub(crate) device: VirtioMmio<D>,
    pub(crate) memory: GuestMemory,
    irq: EventFd,
    rings: Vec<Ring>,
}

pub(crate) fn memory(backing: Backing) -> GuestMemory {
    let layout = BlockLayout { name: "ram".into(), guest_address: 0, bytes: MEMORY_BYTES };
    Ram::allocate(&[layout], backing).unwrap().memory().clone()
}

impl<D: VirtioDevice> Guest<D> {
    /// A machine after power-on.
    pub(crate) fn new(device: D) -> Self {
        Self::with_memory(device, memory(Backing::Anonymous))
    }

    pub(crate) fn with_memory(device: D, memory: GuestMemory) -> Self {
        let irq = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let interrupt = Arc::new(irq.try_clone().unwrap());
        let device = VirtioMmio::new(device, memory.clone(), interrupt).unwrap();
        Self { device, memory, irq, rings: vec![Ring::default(); D::QUEUE_SIZES.len()] }
    }

    /// A machine whose driver has initialised the device and accepted these of its own features.
    pub(crate) fn started(device: D, features: u64) -> Self {
        let mut guest = Self::new(device);
        guest.start(features);
        guest
    }

    /// The initialisation of the spec, 3.1.1 and 4.2.3.
    pub(crate) fn start(&mut self, features: u64) {
        self.write(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
        self.accept(features | feature(VIRTIO_F_VERSION_1));
        for (queue, size) in D::QUEUE_SIZES.iter().enumerate() {
            self.set_up_queue(queue, *size);
        }
        self.add_status(VIRTIO_CONFIG_S_DRIVER_OK);
        self.run();
    }

    pub(crate) fn accept(&mut self, features: u64) {
        for half in 0..2 {
            self.write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, half);
            self.write(VIRTIO_MMIO_DRIVER_FEATURES, (features >> (32 * half)) as u32);
        }
        self.add_status(VIRTIO_CONFIG_S_FEATURES_OK);
    }

    pub(crate) fn set_up_queue(&mut self, queue: usize, size: u16) {
        self.rings[queue] = Ring { size, ..Ring::default() };
        self.memory.write_slice(&[0; 0x1_0000], GuestAddress(table(queue))).unwrap();
        self.write(VIRTIO_MMIO_QUEUE_SEL, queue as u32);
        self.write(VIRTIO_MMIO_QUEUE_NUM, u32::from(size));
        self.write(VIRTIO_MMIO_QUEUE_DESC_LOW, table(queue) as u32);
        self.write(VIRTIO_MMIO_QUEUE_AVAIL_LOW, available(queue) as u32);
        self.write(VIRTIO_MMIO_QUEUE_USED_LOW, used(queue) as u32);
        self.write(VIRTIO_MMIO_QUEUE_READY, 1);
    }

    pub(crate) fn add_status(&mut self, bits: u32) {
        let status = self.status();
        self.write(VIRTIO_MMIO_STATUS, status | bits);
    }

    pub(crate) fn status(&mut self) -> u32 {
        self.read(VIRTIO_MMIO_STATUS)
    }

    pub(crate) fn read(&mut self, register: u32) -> u32 {
        let mut data = [0; 4];
        self.device.read(u64::from(register), &mut data);
        u32::from_le_bytes(data)
    }

    pub(crate) fn write(&mut self, register: u32, value: u32) {
        self.device.write(u64::from(register), &value.to_le_bytes());
    }

    pub(crate) fn offered(&mut self) -> u64 {
        self.write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
        let low = u64::from(self.read(VIRTIO_MMIO_DEVICE_FEATURES));
        self.write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
        u64::from(self.read(VIRTIO_MMIO_DEVICE_FEATURES)) << 32 | low
    }

    pub(crate) fn config<const N: usize>(&mut self, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        self.device.read(u64::from(VIRTIO_MMIO_CONFIG) + offset, &mut data);
        data
    }

    pub(crate) fn set_config(&mut self, offset: u64, data: &[u8]) {
        self.device.write(u64::from(VIRTIO_MMIO_CONFIG) + offset, data);
    }

    /// Makes a chain of descriptors and offers it; returns its head. Does not notify.
    pub(crate) fn offer(&mut self, queue: usize, chain: &[Desc]) -> u16 {
        let head = self.rings[queue].next_descriptor;
        let size = self.rings[queue].size;
        for (index, desc) in chain.iter().enumerate() {
            let place = (head + index as u16) % size;
            let next = (place + 1) % size;
            let linked = index + 1 < chain.len();
            let flags = desc.flags | if linked { VRING_DESC_F_NEXT as u16 } else { 0 };
            self.set_descriptor(queue, place, Desc { flags, next, ..*desc });
        }
        self.rings[queue].next_descriptor = (head + chain.len() as u16) % size;
        self.make_available(queue, head);
        head
    }

    pub(crate) fn set_descriptor(&mut self, queue: usize, place: u16, desc: Desc) {
        self.put(table(queue) + 16 * u64::from(place), &encode(desc));
    }

    pub(crate) fn make_available(&mut self, queue: usize, head: u16) {
        let ring = self.rings[queue];
        self.put(available(queue) + 4 + 2 * u64::from(ring.available % ring.size), &head.to_le_bytes());
        self.rings[queue].available = ring.available.wrapping_add(1);
        self.put(available(queue) + 2, &self.rings[queue].available.to_le_bytes());
    }

    /// Notifies the device of a queue, and lets its I/O thread run.
    pub(crate) fn notify(&mut self, queue: usize) {
        self.write(VIRTIO_MMIO_QUEUE_NOTIFY, queue as u32);
        self.run();
    }

    /// Offers one chain and has the device serve it.
    pub(crate) fn submit(&mut self, queue: usize, chain: &[Desc]) -> u16 {
        let head = self.offer(queue, chain);
        self.notify(queue);
        head
    }

    /// The device's I/O thread: serves queue notifications until there are none.
    pub(crate) fn run(&mut self) {
        for _ in 0..1000 {
            let events = self.device.queue_events();
            // Reading takes the notification: so it is given back for the device to take.
            let pending = (0..events.len()).find(|queue| events[*queue].read().is_ok());
            let Some(queue) = pending else { return };
            events[queue].write(1).unwrap();
            self.device.ready(queue as u32);
        }
        panic!("the device keeps notifying itself");
    }

    /// The next completion in a queue: head and bytes written.
    pub(crate) fn used(&mut self, queue: usize) -> Option<(u16, u32)> {
        let ring = &mut self.rings[queue];
        let index: u16 = self.memory.read_obj(GuestAddress(used(queue) + 2)).unwrap();
        if index == ring.used {
            return None;
        }
        let slot = used(queue) + 4 + 8 * u64::from(ring.used % ring.size);
        ring.used = ring.used.wrapping_add(1);
        let head: u32 = self.memory.read_obj(GuestAddress(slot)).unwrap();
        let bytes: u32 = self.memory.read_obj(GuestAddress(slot + 4)).unwrap();
        Some((head as u16, bytes))
    }

    /// Takes interrupts; returns their reasons and acknowledges them. None if the line was not raised.
    pub(crate) fn interrupt(&mut self) -> Option<u32> {
        self.irq.read().ok()?;
        let reasons = self.read(VIRTIO_MMIO_INTERRUPT_STATUS);
        self.write(VIRTIO_MMIO_INTERRUPT_ACK, reasons);
        Some(reasons)
    }

    pub(crate) fn put(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    pub(crate) fn get<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    /// Saves the device and restores it as in another process: same memory, new host resources.
    pub(crate) fn moved(self, device: impl FnOnce(&D::State) -> Result<D, Invalid>) -> Self {
        let state = self.save();
        let mut moved = self.restored(&state, device).unwrap();
        moved.device.kick();
        moved
    }

    pub(crate) fn save(&self) -> DeviceState {
        self.device.save("device0").unwrap()
    }

    pub(crate) fn restored(
        &self,
        state: &DeviceState,
        device: impl FnOnce(&D::State) -> Result<D, Invalid>,
    ) -> Result<Self, RestoreError> {
        let irq = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let interrupt = Arc::new(irq.try_clone().unwrap());
        let device = VirtioMmio::restore(state, self.memory.clone(), interrupt, device)?;
        Ok(Self { device, memory: self.memory.clone(), irq, rings: self.rings.clone() })
    }

    /// Where the driver's used_event stands: it wants an interrupt when this entry is used (spec, 2.7.7).
    pub(crate) fn want_interrupt_at(&self, queue: usize, index: u16) {
        self.put(available(queue) + 4 + 2 * u64::from(self.rings[queue].size), &index.to_le_bytes());
    }

    /// The flags of the available ring: 1 for no interrupts (spec, 2.7.6).
    pub(crate) fn set_available_flags(&self, queue: usize, flags: u16) {
        self.put(available(queue), &flags.to_le_bytes());
    }

    /// Overwrites the rings of a queue with anything.
    pub(crate) fn scribble(&self, queue: usize, offset: u16, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(0x1_0000 - usize::from(offset))];
        self.put(table(queue) + u64::from(offset), bytes);
    }
}

/// Whether the page at `address` is marked as written by the VMM; forgets all marks.
pub(crate) fn take_dirty(memory: &GuestMemory, address: u64) -> bool {
    let mut dirty = false;
    for region in memory.iter() {
        if let Some(offset) =
            address.checked_sub(region.start_addr().0).filter(|offset| *offset < region.len())
        {
            dirty |= region.bitmap().dirty_at(offset as usize);
        }
        (**region).bitmap().reset();
    }
    dirty
}

pub(crate) fn encode(desc: Desc) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[0..8].copy_from_slice(&desc.address.to_le_bytes());
    bytes[8..12].copy_from_slice(&desc.bytes.to_le_bytes());
    bytes[12..14].copy_from_slice(&desc.flags.to_le_bytes());
    bytes[14..16].copy_from_slice(&desc.next.to_le_bytes());
    bytes
}

/// Each queue has 64 KiB: descriptors, the available ring, the used ring.
fn table(queue: usize) -> u64 {
    0x1_0000 * (queue as u64 + 1)
}

fn available(queue: usize) -> u64 {
    table(queue) + 0x4000
}

fn used(queue: usize) -> u64 {
    table(queue) + 0x8000
}
