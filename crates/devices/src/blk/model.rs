use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use virtio_bindings::{
    virtio_blk::{
        VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO,
        VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_WRITE_ZEROES,
    },
    virtio_ids::VIRTIO_ID_BLOCK,
};

use super::{
    BlkV1, Disk, DiskFailure, DiskWatch, SECTOR, SERIAL_BYTES, Waiting, config, failure,
    request::{Served, Target, Trouble, serve},
    takes_blocks_of,
};
use crate::{
    Invalid, Watch,
    virtio::{Driver, GuestError, VirtioDevice, feature, read_from},
};

/// Requests served in one turn: the thread is to be parked soon when the machine stops.
const BUDGET: usize = 16;

/// How many errors of the image are logged: each request of the guest may cause one.
const MAX_WARNINGS: u32 = 10;

/// How often it is told at most that the guest heard of an error.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// A virtio disk.
#[derive(Debug)]
pub struct Blk {
    disk: Disk,
    /// What the guest was told, which stays when the image changes.
    bytes: u64,
    block_bytes: u32,
    serial: [u8; SERIAL_BYTES],
    warnings: u32,
    watch: Option<Arc<dyn DiskWatch>>,
    /// When it was last told that the guest heard of an error.
    told: Option<Instant>,
    /// The request that is first in the queue failed, and the machine is about to be stopped: nothing is done until it runs on.
    waiting: Option<Waiting>,
}

impl Blk {
    /// A disk with this image. `serial` is what the guest reads as its serial number.
    ///
    /// # Errors
    /// The serial number is longer than [`SERIAL_BYTES`] or is not printable ASCII.
    pub fn new(disk: Disk, serial: &str) -> Result<Self, Invalid> {
        let printable = serial.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
        Invalid::unless(serial.len() <= SERIAL_BYTES && printable, || {
            format!("disk serial '{serial}' is not at most {SERIAL_BYTES} ASCII characters")
        })?;
        let mut bytes = [0; SERIAL_BYTES];
        bytes[..serial.len()].copy_from_slice(serial.as_bytes());
        let (size, block_bytes) = (disk.bytes(), disk.block_bytes());
        let (watch, told, waiting) = (None, None, None);
        Ok(Self { disk, bytes: size, block_bytes, serial: bytes, warnings: 0, watch, told, waiting })
    }

    /// The disk as it was saved, with the image opened anew.
    ///
    /// # Errors
    /// The image differs from what the guest knows of it.
    pub fn restore(disk: Disk, serial: &str, state: &BlkV1) -> Result<Self, Invalid> {
        let mut blk = Self::new(disk, serial)?;
        let here = blk.save();
        Invalid::unless(state.capacity_sectors == here.capacity_sectors, || {
            format!(
                "the disk has {} sectors on the source and {} here: give both sides the same image",
                state.capacity_sectors, here.capacity_sectors
            )
        })?;
        Invalid::unless(takes_blocks_of(here.block_bytes, state.block_bytes), || {
            format!(
                "the guest uses blocks of {} bytes, the image here needs {}: leave the direct option out",
                state.block_bytes, here.block_bytes
            )
        })?;
        Invalid::unless(state.read_only == here.read_only, || {
            "the disk is read-only on one side: give both sides the same option".into()
        })?;
        Invalid::unless(state.serial == here.serial, || {
            format!("the disk's serial is '{}' on the source and '{}' here", state.serial, here.serial)
        })?;
        blk.block_bytes = state.block_bytes;
        Ok(blk)
    }

    /// Has `watch` hear of requests that fail at the image. Without it none stops the machine.
    #[must_use]
    pub fn watched_by(self, watch: Arc<dyn DiskWatch>) -> Self {
        Self { watch: Some(watch), ..self }
    }

    /// The features of a disk that the guest may write, or may not.
    #[must_use]
    pub fn features_of(read_only: bool) -> u64 {
        let always =
            feature(VIRTIO_BLK_F_SEG_MAX) | feature(VIRTIO_BLK_F_BLK_SIZE) | feature(VIRTIO_BLK_F_FLUSH);
        if read_only {
            always | feature(VIRTIO_BLK_F_RO)
        } else {
            always | feature(VIRTIO_BLK_F_DISCARD) | feature(VIRTIO_BLK_F_WRITE_ZEROES)
        }
    }

    /// Flushes the image beside the disk.
    #[cfg(test)]
    pub(super) fn flusher(&self) -> Arc<super::Flusher> {
        self.disk.flusher()
    }

    /// The guest was told of an error.
    fn reported(&mut self, trouble: &Trouble) {
        if self.warnings < MAX_WARNINGS {
            self.warnings += 1;
            tracing::warn!(error = %trouble.error, "a disk image failed; the guest was told of an I/O error");
        }
        if self.told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            self.told = Some(Instant::now());
            self.tell(trouble, None);
        }
    }

    /// The machine is to be stopped.
    fn stopped_by(&mut self, trouble: &Trouble) {
        let waiting = Waiting::new();
        self.waiting = Some(waiting.clone());
        self.tell(trouble, Some(waiting));
    }

    fn tell(&self, trouble: &Trouble, waiting: Option<Waiting>) {
        if let Some(watch) = &self.watch {
            // Behind the end of a device there is no space either, and nothing that makes some.
            let cut = self.disk.bytes_now().filter(|now| *now < self.bytes);
            let reason = match cut {
                Some(now) => {
                    format!(
                        "{}: the image has {now} bytes now, the guest's disk has {}",
                        trouble.error, self.bytes
                    )
                }
                None => trouble.error.to_string(),
            };
            let no_space = cut.is_none() && failure::is_no_space(&trouble.error);
            watch.failed(DiskFailure { write: trouble.write, no_space, reason, waiting });
        }
    }

    /// Nothing waits any more.
    fn goes_on(&mut self) {
        if let Some(waiting) = self.waiting.take() {
            waiting.end();
        }
    }
}

impl VirtioDevice for Blk {
    type State = BlkV1;
    const DEVICE_ID: u32 = VIRTIO_ID_BLOCK;
    const QUEUE_SIZES: &'static [u16] = &[128];

    fn features(&self) -> u64 {
        Self::features_of(self.disk.is_read_only())
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_from(&config::space(self.bytes / SECTOR, self.block_bytes), offset, data);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8], _features: u64) {}

    fn process(&mut self, queue: usize, driver: &mut Driver<'_>) -> Result<(), GuestError> {
        if self.waiting.is_some() {
            return Ok(());
        }
        let write_through = !driver.has(VIRTIO_BLK_F_FLUSH);
        driver.serve_or_keep(queue, BUDGET, |readable, writable| {
            let target = Target {
                disk: &self.disk,
                bytes: self.bytes,
                block_bytes: self.block_bytes,
                serial: &self.serial,
                write_through,
            };
            match serve(&target, readable, writable)? {
                Served::Done(written, trouble) => {
                    if let Some(trouble) = trouble {
                        self.reported(&trouble);
                    }
                    Ok(Some(written))
                }
                Served::Again(trouble) => {
                    self.stopped_by(&trouble);
                    Ok(None)
                }
            }
        })
    }

    fn watches(&self) -> Vec<Watch> {
        Vec::new()
    }

    fn ready(&mut self, _token: u32, _driver: &mut Driver<'_>) -> Result<(), GuestError> {
        Ok(())
    }

    fn runs_on(&mut self) {
        self.goes_on();
    }

    fn reset(&mut self) {
        self.goes_on();
    }

    fn save(&self) -> BlkV1 {
        let serial = self.serial.iter().take_while(|byte| **byte != 0);
        BlkV1 {
            capacity_sectors: self.bytes / SECTOR,
            block_bytes: self.block_bytes,
            read_only: self.disk.is_read_only(),
            serial: serial.map(|byte| char::from(*byte)).collect(),
        }
    }
}
