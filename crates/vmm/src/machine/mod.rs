//! A machine from its description to its end.
//!
//! [`Machine::boot`] builds one that starts; [`Incoming`] is one that waits for its contents and becomes a machine by
//! [`Incoming::restore`]. Either way it is paused at first.

mod absent;
mod board;
mod boot_image;
mod build;
mod core_file;
mod description;
mod devices;
mod huge_page_limit;
mod ids;
mod image;
mod look;
mod page_faults;
mod plug;
mod reset;
mod resources;
mod restore;
mod room;
mod run;
mod save;
mod states;
mod storage;
mod time;
mod workshop;

use std::{
    io,
    sync::{Arc, Weak, atomic::AtomicBool},
};

use ::devices::{balloon::Stats, blk::DiskFigures, input::UnknownKey, virtio::VirtioMmio};
use parking_lot::Mutex;
use ram::{DirtyLog, Incomplete, Ram};
use wire::Forward;

pub use board::{BoardError, VcpuError};
pub use boot_image::{BootDescription, FileDescription};
pub use build::BuildError;
pub use description::{DeviceDescription, Differences, MachineDescription, VirtioDescription};
pub use page_faults::{PageFaultError, PageFaults};
pub use plug::PlugError;
pub use reset::ResetError;
pub use resources::ResourceError;
pub use restore::{Incoming, Keep, RestoreError};
pub use run::{PauseError, PauseTimings};
pub use save::SaveError;
pub use states::StatesError;
pub use storage::StorageError;
pub use workshop::DeviceError;

use board::Tracking;

pub(crate) use core_file::CoreFile;
pub(crate) use ids::disk as disk_id;
pub(crate) use image::ImageClues;
pub(crate) use look::{OPENING, Sight};

use crate::{events::Events, io_loop::IoThread, kvm::DirtyRings, launcher::Launcher};

/// One virtual machine. All methods may be called from any thread; those that change whether it runs wait for each other.
///
/// Dropping it ends the guest.
#[derive(Debug)]
pub struct Machine {
    // Dropped in this order: threads end before what they work on goes.
    io: Vec<IoThread>,
    board: board::Board,
    devices: devices::Devices,
    storage: storage::Storage,
    boot: Arc<boot_image::BootImage>,
    description: MachineDescription,
    images: image::Images,
    events: Events,
    /// Its memory, while some of it is still to come.
    lacking: Mutex<Weak<Incomplete>>,
    running: AtomicBool,
    /// It was stopped for longer than a switchover takes, and its guest is to be told.
    stood_still: AtomicBool,
    /// Held by whoever changes whether it runs, or needs that to stay.
    transition: Mutex<()>,
}

impl Machine {
    /// The memory of the guest.
    #[must_use]
    pub fn ram(&self) -> &Ram {
        &self.board.ram
    }

    /// The pages that vCPUs write. Devices' writes are in the bitmap of [`Ram::memory`].
    #[must_use]
    pub fn dirty_log(&self) -> Arc<dyn DirtyLog> {
        match &self.board.dirty_log {
            Tracking::Bits(bits) => bits.clone(),
            Tracking::Rings(rings) => rings.clone(),
        }
    }

    /// The same, where KVM writes down in rings which pages are written.
    pub(crate) fn dirty_rings(&self) -> Option<Arc<DirtyRings>> {
        self.board.dirty_log.rings().cloned()
    }

    /// What another side must be able to offer for this machine to move there.
    #[must_use]
    pub fn description(&self) -> &MachineDescription {
        &self.description
    }

    /// By what another side finds out whether it has the images of this machine's disks. Takes five seconds at most, where the
    /// storage does not answer.
    pub(crate) fn image_clues(&self, launcher: &Launcher) -> ImageClues {
        self.images.clues(launcher)
    }

    /// The kernel's ids of the vCPUs' threads, in the order of the vCPUs.
    #[must_use]
    pub fn vcpu_threads(&self) -> Vec<u32> {
        self.board.vcpus.iter().map(crate::vcpu::Vcpu::thread_id).collect()
    }

    /// What all vCPUs together have spent their time on besides the guest.
    pub(crate) fn vcpus_spent(&self) -> crate::vcpu::Spent {
        let each = self.board.vcpus.iter().map(crate::vcpu::Vcpu::spent);
        each.reduce(|sum, vcpu| crate::vcpu::Spent {
            faults: sum.faults.zip(vcpu.faults).map(|(sum, faults)| sum + faults),
            kernel: sum.kernel + vcpu.kernel,
            waiting: sum.waiting + vcpu.waiting,
        })
        .unwrap_or_default()
    }

    /// Pages of its memory are still to come: no thread that works for a device waits for one. Called before it runs first.
    pub(crate) fn lacks_memory(&self, memory: Weak<Incomplete>, launcher: &Launcher) -> io::Result<()> {
        self.lacking.lock().clone_from(&memory);
        self.devices.lack_memory(&absent::Absent::new(self.ram(), memory, launcher)?);
        Ok(())
    }

    /// What each vCPU has dirtied, and what was taken from it.
    pub(crate) fn vcpu_loads(&self) -> Vec<engine::VcpuLoad> {
        // A ring says exactly what page faults only mostly are.
        let written = self.board.dirty_log.rings().map(|rings| rings.counts()).unwrap_or_default();
        let written = written.into_iter().map(Some).chain(std::iter::repeat(None));
        let load = |(vcpu, written): (&crate::vcpu::Vcpu, Option<u64>)| engine::VcpuLoad {
            faults: written.or_else(|| vcpu.faults()),
            taken: vcpu.rested(),
        };
        self.board.vcpus.iter().zip(written).map(load).collect()
    }

    /// Presses the power button. What happens is up to the guest.
    pub fn power_button(&self) {
        self.devices.power.lock().press_power_button();
    }

    /// Tells the network where the guest is. Frames get lost: a machine that has moved does this several times.
    ///
    /// # Errors
    /// The first network card whose tap did not take the frame; the others were announced.
    pub fn announce(&self) -> io::Result<()> {
        let results: Vec<_> = self.devices.nets.iter().map(VirtioMmio::announce).collect();
        results.into_iter().collect()
    }

    /// Packets that wait for a driver which is not to have them here: the machine has left. At most so many bytes, of all network cards
    /// together.
    #[must_use]
    pub fn undelivered(&self, most: usize) -> Vec<Forward> {
        self.devices.undelivered(most)
    }

    /// Packets that came for the machine where it was before follow it: until [`Self::deliver`] of the last, what comes here waits.
    pub fn packets_follow(&self) {
        self.devices.nets.iter().for_each(VirtioMmio::packets_follow);
    }

    /// Nothing that may yet follow is waited for any more.
    pub fn no_packets_follow(&self) {
        self.devices.nets.iter().for_each(VirtioMmio::no_packets_follow);
    }

    /// Gives packets to the network card that they came for where the machine was before. They may be lost, as in any network.
    pub fn deliver(&self, forward: Forward) {
        let (device, came) = (forward.device.clone(), forward.packets.len());
        let taken = self.devices.deliver(forward);
        if came > 0 {
            tracing::info!(device, came, taken, "Packets have followed the machine");
        }
    }

    /// Whether there is a balloon.
    #[must_use]
    pub fn has_balloon(&self) -> bool {
        self.devices.balloon.is_some()
    }

    /// Asks the guest to make do with `bytes` of memory; it takes its time. Without a balloon nothing happens.
    pub fn set_balloon_target(&self, bytes: u64) {
        if let Some(balloon) = &self.devices.balloon {
            balloon.set_target(bytes);
        }
    }

    /// Bytes of memory that the balloon leaves the guest; none without a balloon.
    #[must_use]
    pub fn balloon_actual(&self) -> Option<u64> {
        self.devices.balloon.as_ref().map(VirtioMmio::actual)
    }

    /// Asks the guest how it uses its memory. The answer comes later, to [`Self::balloon_stats`].
    pub fn request_balloon_stats(&self) {
        if let Some(balloon) = &self.devices.balloon {
            balloon.request_stats();
        }
    }

    /// What the guest said last of its memory; none without a balloon.
    #[must_use]
    pub fn balloon_stats(&self) -> Option<Stats> {
        self.devices.balloon.as_ref().map(VirtioMmio::stats)
    }

    /// Presses (`down`) or releases a key of the keyboard, by its evdev code. Without a keyboard nothing happens.
    ///
    /// # Errors
    /// The keyboard has no such key.
    pub fn send_key(&self, code: u16, down: bool) -> Result<(), UnknownKey> {
        self.devices.keyboard.as_ref().map_or(Ok(()), |keyboard| keyboard.send_key(code, down))
    }

    /// What each disk has done for the guest since the machine came to this process.
    #[must_use]
    pub fn disk_figures(&self) -> Vec<DiskFigures> {
        self.storage.figures()
    }

    /// Takes the locks of all disks. Those that are held already stay.
    ///
    /// # Errors
    /// An image is in use elsewhere, or its storage does not answer. None is locked then.
    pub fn lock_disks(&self) -> Result<(), StorageError> {
        self.storage.lock()
    }

    /// Gives the locks of all disks up, for another machine to take them. This one must not run until it has them again.
    ///
    /// # Errors
    /// Their storage does not answer.
    pub fn unlock_disks(&self) -> Result<(), StorageError> {
        self.storage.unlock()
    }

    /// Has the disks flushed while the guest runs, and waits so long at most. Returns how long a flush takes now, as far as that can be
    /// told.
    ///
    /// # Errors
    /// The storage of one has not answered for ten seconds.
    pub(crate) fn flush_ahead(&self, wait: std::time::Duration) -> Result<std::time::Duration, StorageError> {
        let flush = self.storage.flush_ahead(wait)?;
        // A request that is under way has to be over before the machine has stopped.
        let busy = self.io.iter().map(|thread| (thread, thread.busy_for())).max_by_key(|(_, busy)| *busy);
        match busy {
            Some((thread, busy)) if busy >= storage::AHEAD_PATIENCE => {
                Err(self.storage.does_not_answer(thread.name(), busy))
            }
            Some((_, busy)) => Ok(flush.max(busy)),
            None => Ok(flush),
        }
    }

    /// Flushes what was not flushed lately while the guest runs, so that little is left when it is stopped.
    ///
    /// # Errors
    /// The storage of one disk does not answer for ten seconds.
    pub(crate) fn flush_bulk(&self) -> Result<(), StorageError> {
        self.storage.flush_bulk()?;
        self.flush_ahead(std::time::Duration::ZERO).map(|_| ())
    }
}

#[cfg(test)]
mod guest_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod workload_tests;
