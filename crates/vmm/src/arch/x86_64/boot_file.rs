//! The files a machine boots from, and what can be wrong with them.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use devices::GuestMemory;
use vm_memory::GuestMemoryBackend as _;
use xxhash_rust::xxh3::Xxh3;

use super::layout;

/// An open file, what to call it, and what was in it when it was opened.
#[derive(Debug)]
pub(crate) struct BootFile {
    pub(super) file: File,
    what: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    /// XXH3, 128 bits.
    pub(crate) digest: u128,
    /// When it was last written to, before it was read.
    written: SystemTime,
}

/// What both boot protocols have in common, once it is in memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loaded {
    /// First byte and size of the initrd; size 0 without one.
    pub(super) initrd: (u64, u64),
    /// Bytes of the command line without its zero.
    pub(super) command_line_bytes: usize,
    /// Bytes of the machine's memory.
    pub(super) memory_bytes: u64,
}

/// Why a machine cannot boot what it was given.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The kernel or the initrd cannot be opened or read.
    #[error("Cannot read the {what} '{}'", path.display())]
    Unreadable {
        /// `kernel` or `initrd`.
        what: &'static str,
        /// Where it was looked for.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file has other contents than when the machine booted from it.
    #[error(
        "The {what} '{}' was overwritten since the machine booted from it: write what it was before into the same file, or move \
         the machine to a host where it is unchanged",
        path.display()
    )]
    Changed {
        /// `kernel` or `initrd`.
        what: &'static str,
        /// Where it was when it was opened.
        path: PathBuf,
    },
    /// Nobody knows what is in it now.
    #[error(
        "The {what} '{}' cannot be compared with what the machine booted from, as {why}: bring its storage back, and try again",
        path.display()
    )]
    Unseen {
        /// `kernel` or `initrd`.
        what: &'static str,
        /// Where it was when it was opened.
        path: PathBuf,
        /// What is in the way.
        why: &'static str,
    },
    /// The file is of another kind.
    #[error(
        "'{}' is neither a PVH ELF kernel nor a bzImage: give a vmlinux built with CONFIG_PVH, or a vmlinuz",
        path.display()
    )]
    NotAKernel {
        /// The file.
        path: PathBuf,
    },
    /// An ELF file without the note that names its PVH entry.
    #[error(
        "Kernel '{}' has no PVH entry (ELF note Xen 18): build it with CONFIG_PVH, or give its bzImage",
        path.display()
    )]
    NoPvhEntry {
        /// The file.
        path: PathBuf,
    },
    /// A bzImage too old for the 64-bit boot protocol.
    #[error(
        "Kernel '{}' has no 64-bit entry (boot protocol 2.12, XLF_KERNEL_64): give a 64-bit kernel",
        path.display()
    )]
    No64BitEntry {
        /// The file.
        path: PathBuf,
    },
    /// The kernel cannot be loaded: cut off, damaged, or larger than the memory.
    #[error("Kernel '{}' cannot be loaded into {mib} MiB of memory: {detail}", path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// Memory below 3 GiB.
        mib: u64,
        /// What the loader found.
        detail: String,
    },
    /// Kernel and initrd do not fit.
    #[error(
        "Initrd '{}' ({bytes} bytes) does not fit above the kernel in {mib} MiB of memory: give the machine more",
        path.display()
    )]
    InitrdTooBig {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// Memory below 3 GiB.
        mib: u64,
    },
    /// The command line is longer than the kernel takes.
    #[error("The kernel command line is {bytes} bytes long, this kernel takes {limit}")]
    CommandLineTooLong {
        /// Its length.
        bytes: usize,
        /// The most that fits.
        limit: usize,
    },
    /// The command line has a zero byte, which would end it early.
    #[error("The kernel command line has a zero byte at {at}")]
    CommandLineZero {
        /// Where.
        at: usize,
    },
    /// Boot structures do not fit: only with less memory than the smallest machine has.
    #[error("Cannot write the boot data into guest memory")]
    BootData(#[source] vm_memory::GuestMemoryError),
}

/// Most bytes of a kernel or an initrd: what is loaded of it has to fit below 3 GiB, and a kernel with all its debug
/// information is not that large either. Bounds how long it takes to read.
const MAX_FILE_BYTES: u64 = 4 << 30;
/// Bytes that are read at once.
const PIECE: usize = 1 << 20;

impl BootFile {
    /// Opens and reads it; `beat` is called whenever something was read.
    pub(super) fn open(what: &'static str, path: &Path, beat: &dyn Fn()) -> Result<Self, KernelError> {
        let unreadable = |source| KernelError::Unreadable { what, path: path.to_owned(), source };
        // Before it is opened: that would wait for the other end of a pipe.
        let kind = std::fs::metadata(path).map_err(unreadable)?.file_type();
        if kind.is_dir() {
            return Err(unreadable(io::Error::from(io::ErrorKind::IsADirectory)));
        }
        if !kind.is_file() {
            return Err(unreadable(io::Error::other("it is not a regular file")));
        }
        let file = File::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        let bytes = metadata.len();
        if bytes > MAX_FILE_BYTES {
            return Err(unreadable(io::Error::from(io::ErrorKind::FileTooLarge)));
        }
        let written = metadata.modified().map_err(unreadable)?;
        let digest = digest(&file, bytes, beat).map_err(unreadable)?;
        Ok(Self { file, what, path: path.to_owned(), bytes, digest, written })
    }

    /// Whether the file is what it was when it was opened. It is read only if it was written to since.
    ///
    /// # Errors
    /// It is not.
    pub(crate) fn verify(&self) -> Result<(), KernelError> {
        let unreadable =
            |source| KernelError::Unreadable { what: self.what, path: self.path.clone(), source };
        let metadata = self.file.metadata().map_err(unreadable)?;
        let is_as_long = metadata.len() == self.bytes;
        if is_as_long && metadata.modified().map_err(unreadable)? == self.written {
            return Ok(());
        }
        // Written to, maybe with what was there.
        if is_as_long && digest(&self.file, self.bytes, &|| {}).map_err(unreadable)? == self.digest {
            return Ok(());
        }
        Err(KernelError::Changed { what: self.what, path: self.path.clone() })
    }

    pub(super) fn cannot_load(&self, memory: &GuestMemory, detail: &str) -> KernelError {
        let mib = low_memory(memory) >> 20;
        KernelError::Load { path: self.path.clone(), mib, detail: detail.into() }
    }
}

/// The digest of the first `bytes` bytes of the file, or of as many as there are.
fn digest(file: &File, bytes: u64, beat: &dyn Fn()) -> io::Result<u128> {
    let mut hasher = Xxh3::new();
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    while at < bytes {
        let wanted = usize::try_from(bytes - at).map_or(PIECE, |left| left.min(PIECE));
        match file.read_at(&mut piece[..wanted], at) {
            Ok(0) => break,
            Ok(count) => {
                hasher.update(&piece[..count]);
                beat();
                at += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(hasher.digest128())
}

/// End of the memory below the device hole.
pub(super) fn low_memory(memory: &GuestMemory) -> u64 {
    total_memory(memory).min(layout::HOLE_START)
}

pub(super) fn total_memory(memory: &GuestMemory) -> u64 {
    memory.iter().map(vm_memory::GuestMemoryRegion::len).sum()
}
