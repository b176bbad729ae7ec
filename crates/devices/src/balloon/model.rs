use std::time::SystemTime;

use virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON;
use vm_memory::GuestAddress;

use super::{BalloonV1, Discard, PAGE, Stats};
use crate::{
    Watch,
    virtio::{Buffers, Driver, GuestError, VirtioDevice, VirtioMmio, feature, read_from},
};

/// Feature numbers (spec, 5.5.3); virtio-bindings does not have this device.
const STATS_VQ: u32 = 1;
const DEFLATE_ON_OOM: u32 = 2;
const PAGE_POISON: u32 = 4;
const PAGE_REPORTING: u32 = 5;

const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const STATS: usize = 2;

/// Requests served in one turn.
const BUDGET: usize = 16;

/// Bytes of page numbers in one request at most: 64 MiB of pages, so that a request takes the thread for a moment only.
/// Linux names 1 MiB at a time (VIRTIO_BALLOON_ARRAY_PFNS_MAX).
const MAX_NUMBERS_BYTES: usize = 64 << 10;
/// Page numbers looked at together: neighbours are given back with one call.
const NUMBERS: usize = 1024;

/// A virtio memory balloon.
#[derive(Debug)]
pub struct Balloon {
    discard: Discard,
    target_pages: u32,
    actual_pages: u32,
    poison: u32,
    stats: Stats,
    /// The guest is to be asked for statistics.
    request_stats: bool,
    /// The guest was asked and has not answered.
    asked: bool,
    /// Giving memory back failed before; said once.
    warned: bool,
}

impl Balloon {
    /// The features of every balloon.
    pub const FEATURES: u64 =
        feature(STATS_VQ) | feature(DEFLATE_ON_OOM) | feature(PAGE_POISON) | feature(PAGE_REPORTING);

    /// An empty balloon that gives memory back through `discard`.
    #[must_use]
    pub fn new(discard: Discard) -> Self {
        Self {
            discard,
            target_pages: 0,
            actual_pages: 0,
            poison: 0,
            stats: Stats::default(),
            request_stats: false,
            asked: false,
            warned: false,
        }
    }

    /// The balloon as it was saved.
    #[must_use]
    pub fn restore(discard: Discard, state: &BalloonV1) -> Self {
        Self {
            target_pages: state.target_pages,
            actual_pages: state.actual_pages,
            poison: state.poison,
            ..Self::new(discard)
        }
    }

    /// Takes pages into the balloon: their numbers are le32, counted in 4 KiB.
    fn inflate(&mut self, mut numbers: Buffers<'_>) -> Result<(), GuestError> {
        if numbers.len() > MAX_NUMBERS_BYTES {
            return Err(GuestError::Request("too many page numbers for the balloon at once"));
        }
        while !numbers.is_empty() {
            let mut bytes = [0; NUMBERS * 4];
            let length = numbers.take_front(bytes.len()).read(&mut bytes);
            let number = |bytes: &[u8]| bytes.try_into().map(u32::from_le_bytes).ok();
            let mut pages: Vec<u32> = bytes[..length].chunks_exact(4).filter_map(number).collect();
            pages.sort_unstable();
            for run in pages.chunk_by(|page, next| next - page <= 1) {
                let pages = u64::from(run[run.len() - 1] - run[0]) + 1;
                self.give_back(GuestAddress(u64::from(run[0]) * PAGE), pages * PAGE);
            }
        }
        Ok(())
    }

    /// The guest reports pages that are free.
    fn report(&mut self, free: &Buffers<'_>, poisons: bool) {
        // A guest that expects its own pattern in free pages would find zeroes (spec, 5.5.6.8.2).
        if poisons && self.poison != 0 {
            return;
        }
        for (address, bytes) in free.ranges() {
            self.give_back(address, bytes as u64);
        }
    }

    fn give_back(&mut self, address: GuestAddress, bytes: u64) {
        if let Err(error) = self.discard.discard(address, bytes)
            && !self.warned
        {
            self.warned = true;
            tracing::warn!(%error, "memory of the balloon could not be given back to the host");
        }
    }

    /// The guest leaves one buffer with statistics in the queue; it fills it anew when it gets it back. Until then the
    /// buffer is only looked at, so that a machine that moves finds it in the queue again.
    fn serve_stats(&mut self, driver: &mut Driver<'_>) -> Result<(), GuestError> {
        if self.request_stats
            && let Some(chain) = driver.pop(STATS)?
        {
            self.request_stats = false;
            self.asked = true;
            driver.complete(STATS, &[(chain.head, 0)])?;
            driver.interrupt(STATS)?;
        }
        // What comes after this announcement is noticed then.
        driver.listen(STATS)?;
        if let Some(chain) = driver.pop(STATS)? {
            driver.unpop(STATS, 1);
            self.stats.read(chain.readable);
            if self.asked {
                self.asked = false;
                self.stats.last_update = Some(SystemTime::now());
            }
        }
        Ok(())
    }
}

impl VirtioMmio<Balloon> {
    /// Asks the guest to leave itself this many bytes of memory, by filling the balloon with the rest. It takes its time;
    /// a guest without a driver takes no notice. More than the machine has means an empty balloon.
    pub fn set_target(&self, bytes: u64) {
        self.change_config(|balloon, _| {
            let pages = balloon.discard.memory_bytes().saturating_sub(bytes) / PAGE;
            let pages = u32::try_from(pages).unwrap_or(u32::MAX);
            std::mem::replace(&mut balloon.target_pages, pages) != pages
        });
    }

    /// Bytes of memory that the guest has, which is what the balloon leaves it.
    #[must_use]
    pub fn actual(&self) -> u64 {
        self.with(|balloon| {
            balloon.discard.memory_bytes().saturating_sub(u64::from(balloon.actual_pages) * PAGE)
        })
    }

    /// Asks the guest for statistics; they are in [`Self::stats`] when it has answered.
    pub fn request_stats(&self) {
        self.with(|balloon| balloon.request_stats = true);
        self.again(STATS);
    }

    /// What the guest answered last.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.with(|balloon| balloon.stats)
    }
}

impl VirtioDevice for Balloon {
    type State = BalloonV1;
    const DEVICE_ID: u32 = VIRTIO_ID_BALLOON;
    const QUEUE_SIZES: &'static [u16] = &[128, 128, 64, 64];

    fn features(&self) -> u64 {
        Self::FEATURES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        // num_pages, actual, free_page_hint_cmd_id (feature not offered), poison_val (spec, 5.5.4).
        let mut config = [0; 16];
        config[0..4].copy_from_slice(&self.target_pages.to_le_bytes());
        config[4..8].copy_from_slice(&self.actual_pages.to_le_bytes());
        config[12..16].copy_from_slice(&self.poison.to_le_bytes());
        read_from(&config, offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8], features: u64) {
        let Ok(value) = data.try_into().map(u32::from_le_bytes) else { return };
        match offset {
            4 => self.actual_pages = value,
            12 if features & feature(PAGE_POISON) != 0 => self.poison = value,
            _ => {}
        }
    }

    fn process(&mut self, queue: usize, driver: &mut Driver<'_>) -> Result<(), GuestError> {
        // Queues of features that the driver left out do not count: those behind move up (spec, 5.5.2).
        let has_stats = driver.has(STATS_VQ);
        match queue {
            INFLATE => driver.serve(INFLATE, BUDGET, |numbers, _| self.inflate(numbers).map(|()| 0)),
            DEFLATE => driver.serve(DEFLATE, BUDGET, |_, _| Ok(0)),
            STATS if has_stats => self.serve_stats(driver),
            _ => {
                let poisons = driver.has(PAGE_POISON);
                driver.serve(queue, BUDGET, |_, free| {
                    self.report(&free, poisons);
                    Ok(0)
                })
            }
        }
    }

    fn watches(&self) -> Vec<Watch> {
        Vec::new()
    }

    fn ready(&mut self, _token: u32, _driver: &mut Driver<'_>) -> Result<(), GuestError> {
        Ok(())
    }

    fn runs_on(&mut self) {}

    fn reset(&mut self) {
        // The target is the host's wish and stays; a guest that starts again has given nothing back yet.
        self.actual_pages = 0;
        self.poison = 0;
        self.stats = Stats::default();
        self.request_stats = false;
        self.asked = false;
    }

    fn save(&self) -> BalloonV1 {
        BalloonV1 { target_pages: self.target_pages, actual_pages: self.actual_pages, poison: self.poison }
    }
}
