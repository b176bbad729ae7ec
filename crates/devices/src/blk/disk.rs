use std::{
    fs::File,
    io,
    os::unix::fs::{FileTypeExt, MetadataExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::{
    fs::{FallocateFlags, OFlags, SeekFrom},
    io::{Errno, retry_on_intr},
};

use super::{
    ErrorPolicy, Flusher, ImageReader, SECTOR,
    alignment::Alignment,
    figures::{Counters, DiskFigures, End, Operation},
    format::{self, Disguise, HEAD_BYTES},
};
use crate::virtio::Buffers;

/// Bytes moved at once where data has to be copied to memory that suits the image.
const BOUNCE_BYTES: usize = 1 << 20;

/// How an image is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskOptions {
    /// The image is never written.
    pub read_only: bool,
    /// The host's page cache is not used (O_DIRECT).
    pub direct: bool,
    /// The image is raw, whatever it looks like. Otherwise one that begins like an image of another format is refused, and the guest
    /// cannot make it begin so.
    pub surely_raw: bool,
    /// What becomes of requests that fail.
    pub errors: ErrorPolicy,
}

/// An open disk image.
#[derive(Debug)]
pub struct Disk {
    file: Arc<File>,
    bytes: u64,
    options: DiskOptions,
    /// Alignment that direct I/O needs.
    direct: Option<Alignment>,
    reader: Arc<ImageReader>,
    flusher: Arc<Flusher>,
    counters: DiskCounters,
}

/// What a disk has done for its guest, for whoever looks beside it. A handle: it waits for nothing, whatever the storage does.
#[derive(Clone, Debug, Default)]
pub struct DiskCounters(Arc<Counters>);

impl DiskCounters {
    /// As it is now.
    #[must_use]
    pub fn figures(&self) -> DiskFigures {
        self.0.figures()
    }
}

/// Why an image cannot be used as a disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// It cannot be opened.
    #[error("Cannot open disk image '{path}' for {access}: check the path and its permissions")]
    Open {
        /// The image.
        path: PathBuf,
        /// Reading, or reading and writing.
        access: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Something about it cannot be found out.
    #[error("Cannot read the properties of disk image '{path}'")]
    Inspect {
        /// The image.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is a directory, a pipe, a terminal.
    #[error("'{path}' is neither a file nor a block device: give a raw disk image")]
    NotADisk {
        /// The image.
        path: PathBuf,
    },
    /// It is to be written, and the kernel lets nobody.
    #[error(
        "Block device '{path}' is read-only: say readonly=on, or make it one that can be written (blockdev --setrw '{path}')"
    )]
    ReadOnlyDevice {
        /// The device.
        path: PathBuf,
    },
    /// It begins like an image of another format.
    #[error(
        "Disk image '{path}' begins like a {format} image, and only raw images can be used: convert it (qemu-img convert -O raw \
         '{path}' FILE). If it is raw, and its guest wrote that, say so with format=raw"
    )]
    Format {
        /// The image.
        path: PathBuf,
        /// What it looks like.
        format: &'static str,
    },
    /// The file system does not do direct I/O.
    #[error("Disk image '{path}' is on a file system without direct I/O: leave the direct option out")]
    NoDirect {
        /// The image.
        path: PathBuf,
    },
    /// There is nothing in it.
    #[error(
        "Disk image '{path}' has 0 bytes: give it the size that the disk is to have (truncate -s SIZE FILE), or see whether what should be \
         there is not connected or mounted"
    )]
    Empty {
        /// The image.
        path: PathBuf,
    },
    /// The size is odd.
    #[error(
        "Disk image '{path}' has {bytes} bytes, which is not a multiple of {block}: extend it (truncate -s %{block} FILE)"
    )]
    Size {
        /// The image.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// What the size must be a multiple of.
        block: u64,
    },
}

impl Disk {
    /// Opens the raw image or block device at `path`.
    ///
    /// # Errors
    /// It is not there, may not be accessed, or cannot be a disk.
    pub fn open(path: &Path, options: DiskOptions) -> Result<Self, DiskError> {
        use std::os::unix::fs::OpenOptionsExt;
        let access = if options.read_only { "reading" } else { "reading and writing" };
        let flags = if options.direct { OFlags::DIRECT } else { OFlags::empty() };
        // Before it is opened: that would wait for the other end of a pipe.
        if std::fs::metadata(path).is_ok_and(|it| !is_disk(it.file_type())) {
            return Err(DiskError::NotADisk { path: path.into() });
        }
        let file = File::options()
            .read(true)
            .write(!options.read_only)
            .custom_flags(flags.bits() as i32)
            .open(path)
            .map_err(|source| match source.raw_os_error() {
                // open(2): the file system does not support O_DIRECT.
                Some(libc::EINVAL) if options.direct => DiskError::NoDirect { path: path.into() },
                _ => DiskError::Open { path: path.into(), access, source },
            })?;
        Self::inspect(file, path, options)
    }

    /// The file, for example to lock it.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Size in bytes that the image has now, where that can be found out.
    pub(super) fn bytes_now(&self) -> Option<u64> {
        rustix::fs::seek(&self.file, SeekFrom::End(0)).ok()
    }

    /// The image is never written.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.options.read_only
    }

    /// What becomes of requests that fail.
    pub(super) fn errors(&self) -> ErrorPolicy {
        self.options.errors
    }

    /// Smallest block in bytes that can be read or written.
    #[must_use]
    pub fn block_bytes(&self) -> u32 {
        self.direct.map_or(SECTOR as u32, |alignment| alignment.offset)
    }

    /// Reads the image beside the disk, to find out which image it is.
    #[must_use]
    pub fn reader(&self) -> Arc<ImageReader> {
        self.reader.clone()
    }

    /// Flushes the image beside the disk.
    #[must_use]
    pub fn flusher(&self) -> Arc<Flusher> {
        self.flusher.clone()
    }

    /// What the disk has done, counted, to be looked at beside it.
    #[must_use]
    pub fn counters(&self) -> DiskCounters {
        self.counters.clone()
    }

    /// A request has ended.
    pub(super) fn count(&self, operation: Operation, end: End, took: Duration) {
        self.counters.0.add(operation, end, took);
    }

    /// Puts everything written so far on stable storage, as the guest asked for it.
    pub(super) fn flush(&self) -> io::Result<()> {
        self.flusher.flush_for_guest()
    }

    /// Whether a flush that failed can be tried again. What the page cache could not write it has thrown away: a second flush would
    /// say that all is well.
    pub(super) fn flushes_again(&self) -> bool {
        self.direct.is_some()
    }

    /// Fills `buffers` from `offset` on.
    pub(super) fn read(&self, buffers: Buffers<'_>, offset: u64) -> io::Result<()> {
        if self.suits(&buffers) {
            return for_all(buffers, offset, |rest, offset| rest.read_from_at(&self.file, offset));
        }
        self.bounced(buffers, offset, |part, memory, offset| {
            let bytes = rustix::io::pread(&self.file, &mut *memory, offset)?;
            Ok(part.write(&memory[..bytes]))
        })
    }

    /// Writes `buffers` from `offset` on.
    pub(super) fn write(&self, buffers: Buffers<'_>, offset: u64) -> io::Result<()> {
        if offset == 0 && !self.options.surely_raw {
            return self.write_head(buffers);
        }
        self.write_at(buffers, offset)
    }

    /// Writes from the start of the image on, but nothing that makes it look like an image of another format: whoever looks at it next
    /// might open what the guest names in it. What is looked at is a copy, so that the guest cannot change it afterwards.
    fn write_head(&self, mut buffers: Buffers<'_>) -> io::Result<()> {
        let mut head = Bounce::new(self.direct);
        let bytes = buffers.len().min(HEAD_BYTES.max(self.block_bytes() as usize));
        let copy = head.get(bytes);
        let copied = buffers.take_front(bytes).read(copy);
        if let Some(format) = format::told_by(copy) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, Disguise(format)));
        }
        let mut written = 0;
        while written < copied {
            match rustix::io::pwrite(&self.file, &copy[written..copied], written as u64) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(more) => written += more,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if buffers.is_empty() { Ok(()) } else { self.write_at(buffers, copied as u64) }
    }

    fn write_at(&self, buffers: Buffers<'_>, offset: u64) -> io::Result<()> {
        if self.suits(&buffers) {
            return for_all(buffers, offset, |rest, offset| rest.write_to_at(&self.file, offset));
        }
        self.bounced(buffers, offset, |part, memory, offset| {
            part.read(memory);
            Ok(rustix::io::pwrite(&self.file, memory, offset)?)
        })
    }

    /// The guest no longer needs this range. An image without holes keeps it, which is allowed.
    pub(super) fn discard(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.allocate(FallocateFlags::PUNCH_HOLE, offset, bytes).map(|_| ())
    }

    /// Makes this range read as zeroes; frees it if `free`.
    pub(super) fn write_zeroes(&self, offset: u64, bytes: u64, free: bool) -> io::Result<()> {
        let how = if free { FallocateFlags::PUNCH_HOLE } else { FallocateFlags::ZERO_RANGE };
        if self.allocate(how, offset, bytes)? { Ok(()) } else { self.write_zero_bytes(offset, bytes) }
    }

    /// Has the storage do something with a range. Returns whether it can, in general and in this place: devices with large blocks want
    /// whole ones.
    fn allocate(&self, how: FallocateFlags, offset: u64, bytes: u64) -> io::Result<bool> {
        let flags = how | FallocateFlags::KEEP_SIZE;
        match retry_on_intr(|| rustix::fs::fallocate(&self.file, flags, offset, bytes)) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(false),
            result => Ok(result.map(|()| true)?),
        }
    }

    fn write_zero_bytes(&self, mut offset: u64, bytes: u64) -> io::Result<()> {
        let mut memory = Bounce::new(self.direct);
        let end = offset + bytes;
        while offset < end {
            let bytes = usize::try_from(end - offset).unwrap_or(usize::MAX).min(BOUNCE_BYTES);
            let zeroes = memory.get(bytes);
            match retry_on_intr(|| rustix::io::pwrite(&self.file, &*zeroes, offset))? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => offset += written as u64,
            }
        }
        Ok(())
    }

    /// Whether the image takes these buffers without a copy.
    fn suits(&self, buffers: &Buffers<'_>) -> bool {
        self.direct.is_none_or(|alignment| buffers.is_aligned(alignment.memory))
    }

    /// Moves `buffers` in pieces through memory that suits the image.
    fn bounced(
        &self,
        buffers: Buffers<'_>,
        offset: u64,
        transfer: impl Fn(&Buffers<'_>, &mut [u8], u64) -> io::Result<usize>,
    ) -> io::Result<()> {
        let mut memory = Bounce::new(self.direct);
        for_all(buffers, offset, |rest, offset| {
            transfer(rest, memory.get(rest.len().min(BOUNCE_BYTES)), offset)
        })
    }

    fn inspect(file: File, path: &Path, options: DiskOptions) -> Result<Self, DiskError> {
        let failed = |source: io::Error| DiskError::Inspect { path: path.into(), source };
        let metadata = file.metadata().map_err(failed)?;
        if !is_disk(metadata.file_type()) {
            return Err(DiskError::NotADisk { path: path.into() });
        }
        if !options.read_only && is_read_only_device(&metadata) {
            return Err(DiskError::ReadOnlyDevice { path: path.into() });
        }
        // The length in the metadata of a block device is zero; its end tells the size.
        let bytes = rustix::fs::seek(&file, SeekFrom::End(0)).map_err(|errno| failed(errno.into()))?;
        if bytes == 0 {
            return Err(DiskError::Empty { path: path.into() });
        }
        let direct = match options.direct {
            true => Some(direct(&file, path)?),
            false => None,
        };
        let block = direct.map_or(SECTOR, |alignment| u64::from(alignment.offset));
        if !bytes.is_multiple_of(block) {
            return Err(DiskError::Size { path: path.into(), bytes, block });
        }
        if !options.surely_raw
            && let Some(format) = told_by_head(&file, direct, bytes).map_err(failed)?
        {
            return Err(DiskError::Format { path: path.into(), format });
        }
        let reader = Arc::new(ImageReader::new(&file, bytes).map_err(failed)?);
        let file = Arc::new(file);
        let flusher = Arc::new(Flusher::new(file.clone(), options.read_only));
        Ok(Self { file, bytes, options, direct, reader, flusher, counters: DiskCounters::default() })
    }
}

fn is_disk(kind: std::fs::FileType) -> bool {
    kind.is_file() || kind.is_block_device()
}

/// Such a device can be opened for writing all the same, and only the guest's first write would be refused.
fn is_read_only_device(metadata: &std::fs::Metadata) -> bool {
    let (major, minor) = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
    let said = || std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/ro"));
    metadata.file_type().is_block_device() && said().is_ok_and(|said| said.trim() == "1")
}

/// The format that an image of this many bytes seems to have, if it is not raw.
fn told_by_head(file: &File, direct: Option<Alignment>, bytes: u64) -> io::Result<Option<&'static str>> {
    let mut memory = Bounce::new(direct);
    let block = direct.map_or(HEAD_BYTES, |alignment| HEAD_BYTES.max(alignment.offset as usize));
    let head = memory.get(block.min(usize::try_from(bytes).unwrap_or(block)));
    let read = rustix::io::pread(file, &mut *head, 0)?;
    Ok(format::told_by(&head[..read]))
}

fn direct(file: &File, path: &Path) -> Result<Alignment, DiskError> {
    let alignment = Alignment::of(file)
        .map_err(|errno| DiskError::Inspect { path: path.into(), source: errno.into() })?;
    alignment.ok_or_else(|| DiskError::NoDirect { path: path.into() })
}

/// Repeats a transfer that may stop early until all of `buffers` is done. `transfer` says how many bytes it moved.
fn for_all(
    mut buffers: Buffers<'_>,
    mut offset: u64,
    mut transfer: impl FnMut(&Buffers<'_>, u64) -> io::Result<usize>,
) -> io::Result<()> {
    while !buffers.is_empty() {
        match transfer(&buffers, offset) {
            // The image shrank under us.
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => {
                let _done = buffers.take_front(bytes);
                offset += bytes as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Memory at an address that suits direct I/O.
struct Bounce {
    memory: Vec<u8>,
    start: usize,
}

impl Bounce {
    fn new(direct: Option<Alignment>) -> Self {
        let alignment = direct.map_or(1, |alignment| alignment.memory);
        let memory = vec![0; BOUNCE_BYTES + alignment];
        let start = memory.as_ptr().align_offset(alignment).min(alignment);
        Self { memory, start }
    }

    fn get(&mut self, bytes: usize) -> &mut [u8] {
        &mut self.memory[self.start..self.start + bytes.min(BOUNCE_BYTES)]
    }
}
