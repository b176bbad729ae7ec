use std::{io, time::Instant};

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
    VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};

use super::{
    Disk, ErrorPolicy, OnError, SECTOR, SERIAL_BYTES,
    config::{MAX_DISCARD_SECTORS, MAX_ZEROES_SECTORS},
    figures::{End, Operation},
    format::Disguise,
};
use crate::virtio::{Buffers, GuestError};

/// Bytes of a request before its data (spec, 5.2.6).
const HEADER_BYTES: usize = 16;
/// Bytes of a range to discard or to fill with zeroes.
const RANGE_BYTES: usize = 16;

/// What a request found at the disk.
pub(super) struct Target<'a> {
    pub(super) disk: &'a Disk,
    /// Size that the guest knows; the image may have grown since.
    pub(super) bytes: u64,
    pub(super) block_bytes: u32,
    pub(super) serial: &'a [u8; SERIAL_BYTES],
    /// The driver did not accept the flush feature: writes are stable when they complete (spec, 5.2.5.1).
    pub(super) write_through: bool,
}

/// Why a request failed; becomes its status.
#[derive(Debug)]
pub(super) enum Failure {
    Unsupported,
    /// The driver asked for what is not there.
    OutOfRange,
    Io(Trouble),
}

/// The image did not do what a request asked of it.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) write: bool,
    pub(super) error: io::Error,
    /// It can be tried again when whatever is wrong has been mended.
    again: bool,
}

/// What became of a request.
#[derive(Debug)]
pub(super) enum Served {
    /// The guest has its answer, so many bytes in all.
    Done(u32, Option<Trouble>),
    /// Nothing was answered: the request is to be done again when the machine has been stopped and runs on.
    Again(Trouble),
}

/// Serves one request, and writes its status unless it is to be done again.
pub(super) fn serve(
    target: &Target<'_>,
    mut readable: Buffers<'_>,
    mut writable: Buffers<'_>,
) -> Result<Served, GuestError> {
    let written = writable.len();
    let mut header = [0; HEADER_BYTES];
    if readable.take_front(HEADER_BYTES).read(&mut header) != HEADER_BYTES {
        return Err(GuestError::Request("the header of a disk request is too short"));
    }
    let status = writable.take_back(1);
    if status.is_empty() {
        return Err(GuestError::Request("a disk request has no room for its status"));
    }
    let began = Instant::now();
    let outcome = execute(target, &header, readable, writable);
    if let Some((operation, end)) = operation_of(&header).zip(end_of(&outcome, target.disk.errors())) {
        target.disk.count(operation, end, began.elapsed());
    }
    let (code, error) = match outcome {
        Ok(_) => (VIRTIO_BLK_S_OK, None),
        Err(Failure::Unsupported) => (VIRTIO_BLK_S_UNSUPP, None),
        Err(Failure::OutOfRange) => (VIRTIO_BLK_S_IOERR, None),
        Err(Failure::Io(trouble)) if trouble.stops(target.disk.errors()) => {
            return Ok(Served::Again(trouble));
        }
        Err(Failure::Io(trouble)) => (VIRTIO_BLK_S_IOERR, Some(trouble)),
    };
    status.write(&[code as u8]);
    Ok(Served::Done(u32::try_from(written).unwrap_or(u32::MAX), error))
}

/// What a request is counted as; those are not that ask the disk who it is, or for what it does not know.
fn operation_of(header: &[u8; HEADER_BYTES]) -> Option<Operation> {
    match u32_at(header, 0) {
        VIRTIO_BLK_T_IN => Some(Operation::Read),
        VIRTIO_BLK_T_OUT | VIRTIO_BLK_T_WRITE_ZEROES => Some(Operation::Write),
        VIRTIO_BLK_T_FLUSH => Some(Operation::Flush),
        VIRTIO_BLK_T_DISCARD => Some(Operation::Discard),
        _ => None,
    }
}

/// How a request has ended; `None` if it has not: it is done again, and counted then.
fn end_of(outcome: &Result<Moved, Failure>, policy: ErrorPolicy) -> Option<End> {
    match outcome {
        Ok(Moved { bytes, end }) => Some(End::Done { bytes: *bytes, end: *end }),
        Err(Failure::Io(trouble)) if trouble.stops(policy) => None,
        Err(Failure::Io(_)) => Some(End::Failed),
        Err(Failure::Unsupported | Failure::OutOfRange) => Some(End::Invalid),
    }
}

/// What a request has moved.
#[derive(Clone, Copy, Debug, Default)]
struct Moved {
    bytes: u64,
    /// Where the last of them ends.
    end: u64,
}

impl Moved {
    fn at(offset: u64, bytes: u64) -> Self {
        Self { bytes, end: offset.saturating_add(bytes) }
    }
}

impl Trouble {
    fn reading(error: io::Error) -> Failure {
        Failure::Io(Self { write: false, error, again: true })
    }

    fn writing(error: io::Error) -> Failure {
        // What the guest may not write it may not write later either.
        let again = !error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<Disguise>);
        Failure::Io(Self { write: true, error, again })
    }

    fn stops(&self, policy: ErrorPolicy) -> bool {
        let on_error: OnError = if self.write { policy.write } else { policy.read };
        self.again && on_error.stops_at(&self.error)
    }
}

fn execute(
    target: &Target<'_>,
    header: &[u8; HEADER_BYTES],
    readable: Buffers<'_>,
    writable: Buffers<'_>,
) -> Result<Moved, Failure> {
    let sector = u64_at(header, 8);
    match u32_at(header, 0) {
        VIRTIO_BLK_T_IN => {
            let bytes = writable.len() as u64;
            let offset = target.offset(sector, bytes)?;
            target.disk.read(writable, offset).map_err(Trouble::reading)?;
            Ok(Moved::at(offset, bytes))
        }
        VIRTIO_BLK_T_OUT => {
            target.check_writable()?;
            let bytes = readable.len() as u64;
            let offset = target.offset(sector, bytes)?;
            target.disk.write(readable, offset).map_err(Trouble::writing)?;
            target.settle()?;
            Ok(Moved::at(offset, bytes))
        }
        VIRTIO_BLK_T_FLUSH => target.flush().map(|()| Moved::default()),
        VIRTIO_BLK_T_GET_ID => {
            writable.write(target.serial);
            Ok(Moved::default())
        }
        VIRTIO_BLK_T_DISCARD => target.discard(&readable),
        VIRTIO_BLK_T_WRITE_ZEROES => target.write_zeroes(&readable),
        _ => Err(Failure::Unsupported),
    }
}

impl Target<'_> {
    fn discard(&self, readable: &Buffers<'_>) -> Result<Moved, Failure> {
        self.check_writable()?;
        let (offset, bytes, flags) = self.range(readable, MAX_DISCARD_SECTORS)?;
        // Only a write of zeroes may carry flags (spec, 5.2.6.2).
        if flags != 0 {
            return Err(Failure::Unsupported);
        }
        if bytes > 0 {
            self.disk.discard(offset, bytes).map_err(Trouble::writing)?;
        }
        Ok(Moved::at(offset, bytes))
    }

    fn write_zeroes(&self, readable: &Buffers<'_>) -> Result<Moved, Failure> {
        self.check_writable()?;
        let (offset, bytes, flags) = self.range(readable, MAX_ZEROES_SECTORS)?;
        if flags & !VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0 {
            return Err(Failure::Unsupported);
        }
        if bytes > 0 {
            let free = flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0;
            self.disk.write_zeroes(offset, bytes, free).map_err(Trouble::writing)?;
        }
        self.settle()?;
        Ok(Moved::at(offset, bytes))
    }

    /// The one range that a discard or a write of zeroes names: offset and length in bytes, and its flags.
    fn range(&self, readable: &Buffers<'_>, max_sectors: u32) -> Result<(u64, u64, u32), Failure> {
        let mut range = [0; RANGE_BYTES];
        if readable.len() != RANGE_BYTES || readable.read(&mut range) != RANGE_BYTES {
            return Err(Failure::OutOfRange);
        }
        let sectors = u32_at(&range, 8);
        if sectors > max_sectors {
            return Err(Failure::OutOfRange);
        }
        let bytes = u64::from(sectors) * SECTOR;
        Ok((self.offset(u64_at(&range, 0), bytes)?, bytes, u32_at(&range, 12)))
    }

    /// The offset of `sector` in the image, if `bytes` bytes from there on are whole blocks of the disk.
    fn offset(&self, sector: u64, bytes: u64) -> Result<u64, Failure> {
        let block = u64::from(self.block_bytes);
        let offset = sector.checked_mul(SECTOR).ok_or(Failure::OutOfRange)?;
        let end = offset.checked_add(bytes).ok_or(Failure::OutOfRange)?;
        let fits = end <= self.bytes && offset.is_multiple_of(block) && bytes.is_multiple_of(block);
        if fits { Ok(offset) } else { Err(Failure::OutOfRange) }
    }

    fn check_writable(&self) -> Result<(), Failure> {
        if self.disk.is_read_only() { Err(Failure::OutOfRange) } else { Ok(()) }
    }

    fn settle(&self) -> Result<(), Failure> {
        if self.write_through { self.flush() } else { Ok(()) }
    }

    fn flush(&self) -> Result<(), Failure> {
        self.disk
            .flush()
            .map_err(|error| Failure::Io(Trouble { write: true, error, again: self.disk.flushes_again() }))
    }
}

fn u32_at(bytes: &[u8; 16], offset: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(value)
}

fn u64_at(bytes: &[u8; 16], offset: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(value)
}
