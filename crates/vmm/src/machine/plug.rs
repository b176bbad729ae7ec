//! Where devices are plugged in: buses, interrupt lines, queue notifications.

use std::{io, sync::Arc};

use devices::{
    BusDevice, Interrupt,
    virtio::{QUEUE_NOTIFY, VirtioDevice, VirtioMmio},
};
use kvm_ioctls::{IoEventAddress, VmFd};
use parking_lot::Mutex;
use vmm_sys_util::eventfd::EventFd;

use crate::{
    arch::layout,
    bus::Buses,
    kvm::{KvmError, Trying as _},
};

/// The sockets of one machine while its devices are being plugged in.
#[derive(Debug)]
pub(crate) struct Plug<'a> {
    vm: &'a VmFd,
    pub(crate) buses: Buses,
    /// Virtio slots used so far.
    pub(crate) virtio_slots: usize,
}

/// Why a device could not be plugged in.
#[derive(Debug, thiserror::Error)]
pub enum PlugError {
    /// All places are taken.
    #[error(
        "The machine has more than {} virtio devices (disks, network cards, rng, balloon, keyboard): leave some out",
        layout::GSI_VIRTIO.len()
    )]
    NoSlot,
    /// KVM refused.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The process is out of descriptors.
    #[error("Cannot make an interrupt line: raise the limit of open files (ulimit -n)")]
    Descriptors(#[source] io::Error),
}

/// A place for a virtio device.
pub(crate) struct Slot {
    address: u64,
    pub(crate) interrupt: Arc<dyn Interrupt>,
}

impl<'a> Plug<'a> {
    pub(crate) fn new(vm: &'a VmFd) -> Self {
        Self { vm, buses: Buses::default(), virtio_slots: 0 }
    }

    /// A line that raises `gsi`, edge-triggered.
    pub(crate) fn interrupt(&self, gsi: u32) -> Result<Arc<dyn Interrupt>, PlugError> {
        let event = EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK).map_err(PlugError::Descriptors)?;
        self.vm.register_irqfd(&event, gsi).trying("connect an interrupt line")?;
        Ok(Arc::new(event))
    }

    /// The next free place for a virtio device.
    pub(crate) fn slot(&mut self) -> Result<Slot, PlugError> {
        let (address, gsi) = layout::virtio_slot(self.virtio_slots).ok_or(PlugError::NoSlot)?;
        self.virtio_slots += 1;
        Ok(Slot { address, interrupt: self.interrupt(gsi)? })
    }

    /// Puts a virtio device into its place. Its queue notifications go from KVM to its thread without an exit.
    pub(crate) fn virtio<D: VirtioDevice>(
        &mut self,
        slot: &Slot,
        device: &VirtioMmio<D>,
    ) -> Result<(), PlugError> {
        let notify = IoEventAddress::Mmio(slot.address + QUEUE_NOTIFY);
        for (queue, event) in (0u32..).zip(device.queue_events()) {
            self.vm.register_ioevent(event, &notify, queue).trying("connect a queue notification")?;
        }
        self.buses.mmio.insert(slot.address, layout::VIRTIO_BYTES, Arc::new(Mutex::new(device.clone())));
        Ok(())
    }

    /// Puts a device at I/O ports.
    pub(crate) fn ports(&mut self, first: u16, count: u16, device: Arc<Mutex<dyn BusDevice>>) {
        self.buses.ports.insert(first.into(), count.into(), device);
    }
}
