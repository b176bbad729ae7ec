use std::io;

use virtio_bindings::{
    virtio_blk::{
        VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO,
        VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_WRITE_ZEROES,
    },
    virtio_ids::VIRTIO_ID_BLOCK,
};

use super::{
    BlkV1, Disk, SECTOR, SERIAL_BYTES, config,
    request::{Target, serve},
    takes_blocks_of,
};
use crate::{
    Invalid, Watch,
    virtio::{Driver, GuestError, VirtioDevice, VirtioMmio, feature, read_from},
};

/// Requests served in one turn: the thread is to be parked soon when the machine stops.
const BUDGET: usize = 16;

/// How many errors of the image are logged: each request of the guest may cause one.
const MAX_WARNINGS: u32 = 10;

/// A virtio disk.
#[derive(Debug)]
pub struct Blk {
    disk: Disk,
    /// What the guest was told, which stays when the image changes.
    bytes: u64,
    block_bytes: u32,
    serial: [u8; SERIAL_BYTES],
    warnings: u32,
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
        Ok(Self { disk, bytes: size, block_bytes, serial: bytes, warnings: 0 })
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

    fn log(&mut self, error: &io::Error) {
        if self.warnings < MAX_WARNINGS {
            self.warnings += 1;
            tracing::warn!(%error, "a disk image failed; the guest was told of an I/O error");
        }
    }
}

impl VirtioMmio<Blk> {
    /// Puts everything that the guest wrote on stable storage. Waits while the disk is busy.
    ///
    /// # Errors
    /// As fdatasync(2).
    pub fn flush(&self) -> io::Result<()> {
        self.with(|blk| blk.disk.flush())
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
        let write_through = !driver.has(VIRTIO_BLK_F_FLUSH);
        driver.serve(queue, BUDGET, |readable, writable| {
            let target = Target {
                disk: &self.disk,
                bytes: self.bytes,
                block_bytes: self.block_bytes,
                serial: &self.serial,
                write_through,
            };
            let (written, error) = serve(&target, readable, writable)?;
            if let Some(error) = error {
                self.log(&error);
            }
            Ok(written)
        })
    }

    fn watches(&self) -> Vec<Watch> {
        Vec::new()
    }

    fn ready(&mut self, _token: u32, _driver: &mut Driver<'_>) -> Result<(), GuestError> {
        Ok(())
    }

    fn reset(&mut self) {}

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
