//! Putting a kernel, its initrd and its command line into guest memory.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use devices::GuestMemory;
use linux_loader::loader::{self, KernelLoader as _, elf::PvhBootCapability};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend as _};
use xxhash_rust::xxh3::Xxh3;

use super::{bzimage, gdt, layout, pvh, reset_vector};

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

/// The files a machine boots from. They stay open: a reset boots the same ones again, whatever has been put in their place or
/// removed since.
#[derive(Debug)]
pub(crate) struct BootFiles {
    pub(crate) kernel: BootFile,
    pub(crate) initrd: Option<BootFile>,
}

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

/// Where and how the first vCPU starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// 32-bit protected mode, `ebx` at the start info (Xen PVH ABI).
    Pvh { address: u64 },
    /// Long mode with identity-mapped memory, `rsi` at the zero page (Linux 64-bit boot protocol).
    Long { address: u64 },
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

impl Entry {
    /// Whether the vCPU starts in long mode.
    pub(super) fn is_long(self) -> bool {
        matches!(self, Self::Long { .. })
    }
}

impl BootFiles {
    /// Opens kernel and initrd.
    pub(crate) fn open(kernel: &Path, initrd: Option<&Path>) -> Result<Self, KernelError> {
        Ok(Self {
            kernel: BootFile::open("kernel", kernel)?,
            initrd: initrd.map(|path| BootFile::open("initrd", path)).transpose()?,
        })
    }

    /// Whether the files are what they were when they were opened. Reads only those that were written to since.
    ///
    /// # Errors
    /// They are not.
    pub(crate) fn verify(&self) -> Result<(), KernelError> {
        self.kernel.verify()?;
        self.initrd.as_ref().map_or(Ok(()), BootFile::verify)
    }

    /// Loads everything but the ACPI tables into `memory`.
    pub(crate) fn load(&mut self, memory: &GuestMemory, command_line: &str) -> Result<Entry, KernelError> {
        let mut magic = [0; 4];
        let kernel = &mut self.kernel;
        let unreadable =
            |source| KernelError::Unreadable { what: "kernel", path: kernel.path.clone(), source };
        let bytes = kernel.file.metadata().map_err(unreadable)?.len();
        if bytes >= magic.len() as u64 {
            kernel.file.read_exact_at(&mut magic, 0).map_err(unreadable)?;
        }
        let entry = match &magic {
            b"\x7fELF" => self.load_elf(memory, command_line)?,
            _ => self.load_bzimage(memory, command_line)?,
        };
        gdt::write(memory, entry.is_long())
            .and_then(|()| reset_vector::write(memory))
            .map_err(KernelError::BootData)?;
        Ok(entry)
    }

    fn load_elf(&mut self, memory: &GuestMemory, command_line: &str) -> Result<Entry, KernelError> {
        let kernel = &mut self.kernel;
        // Where it begins is looked at below: of an ordinary program it is told first that it is no kernel.
        let result = loader::Elf::load(memory, None, &mut kernel.file, None)
            .map_err(|error| kernel.cannot_load(memory, &without_prefix(&error)))?;
        let PvhBootCapability::PvhEntryPresent(entry) = result.pvh_boot_cap else {
            return Err(KernelError::NoPvhEntry { path: kernel.path.clone() });
        };
        if result.kernel_load.0 < layout::HIGH_MEMORY {
            return Err(kernel.cannot_load(memory, "it begins below 1 MiB, where the boot data is"));
        }
        let low = low_memory(memory);
        if result.kernel_end > low {
            let detail = format!("it needs memory up to {:#x}", result.kernel_end);
            return Err(kernel.cannot_load(memory, &detail));
        }
        let loaded = Loaded {
            initrd: self.load_initrd(memory, result.kernel_end, low)?,
            command_line_bytes: load_command_line(memory, command_line, layout::COMMAND_LINE_BYTES - 1)?,
            memory_bytes: total_memory(memory),
        };
        pvh::write_start_info(memory, &loaded).map_err(KernelError::BootData)?;
        Ok(Entry::Pvh { address: entry.0 })
    }

    fn load_bzimage(&mut self, memory: &GuestMemory, command_line: &str) -> Result<Entry, KernelError> {
        let header = bzimage::load(memory, &mut self.kernel)?;
        let limit = low_memory(memory).min(u64::from(header.initrd_addr_max) + 1);
        let loaded = Loaded {
            initrd: self.load_initrd(memory, header.memory_end, limit)?,
            command_line_bytes: load_command_line(memory, command_line, header.command_line_limit)?,
            memory_bytes: total_memory(memory),
        };
        bzimage::write_zero_page(memory, &header, &loaded).map_err(KernelError::BootData)?;
        Ok(Entry::Long { address: header.entry })
    }

    /// Puts the initrd as high as it may be, on a page boundary.
    fn load_initrd(
        &mut self,
        memory: &GuestMemory,
        floor: u64,
        limit: u64,
    ) -> Result<(u64, u64), KernelError> {
        let Some(initrd) = &mut self.initrd else { return Ok((0, 0)) };
        let unreadable =
            |source| KernelError::Unreadable { what: "initrd", path: initrd.path.clone(), source };
        let bytes = initrd.file.metadata().map_err(unreadable)?.len();
        let start = limit.checked_sub(bytes).map(|start| start & !0xfff).filter(|start| *start >= floor);
        let (Some(start), Ok(count)) = (start, usize::try_from(bytes)) else {
            let mib = low_memory(memory) >> 20;
            return Err(KernelError::InitrdTooBig { path: initrd.path.clone(), bytes, mib });
        };
        io::Seek::rewind(&mut initrd.file).map_err(unreadable)?;
        memory
            .read_exact_volatile_from(GuestAddress(start), &mut initrd.file, count)
            .map_err(|error| unreadable(io::Error::other(error)))?;
        Ok((start, bytes))
    }
}

impl BootFile {
    fn open(what: &'static str, path: &Path) -> Result<Self, KernelError> {
        let unreadable = |source| KernelError::Unreadable { what, path: path.to_owned(), source };
        let file = File::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        if metadata.is_dir() {
            return Err(unreadable(io::Error::from(io::ErrorKind::IsADirectory)));
        }
        let bytes = metadata.len();
        if bytes > MAX_FILE_BYTES {
            return Err(unreadable(io::Error::from(io::ErrorKind::FileTooLarge)));
        }
        let written = metadata.modified().map_err(unreadable)?;
        let digest = digest(&file, bytes).map_err(unreadable)?;
        Ok(Self { file, what, path: path.to_owned(), bytes, digest, written })
    }

    fn verify(&self) -> Result<(), KernelError> {
        let unreadable =
            |source| KernelError::Unreadable { what: self.what, path: self.path.clone(), source };
        let metadata = self.file.metadata().map_err(unreadable)?;
        let is_as_long = metadata.len() == self.bytes;
        if is_as_long && metadata.modified().map_err(unreadable)? == self.written {
            return Ok(());
        }
        // Written to, maybe with what was there.
        if is_as_long && digest(&self.file, self.bytes).map_err(unreadable)? == self.digest {
            return Ok(());
        }
        Err(KernelError::Changed { what: self.what, path: self.path.clone() })
    }

    pub(super) fn cannot_load(&self, memory: &GuestMemory, detail: &str) -> KernelError {
        let mib = low_memory(memory) >> 20;
        KernelError::Load { path: self.path.clone(), mib, detail: detail.into() }
    }
}

/// Most bytes of a kernel or an initrd: what is loaded of it has to fit below 3 GiB, and a kernel with all its debug
/// information is not that large either. Bounds how long it takes to read.
const MAX_FILE_BYTES: u64 = 4 << 30;

/// Bytes that are read at once.
const PIECE: usize = 1 << 20;

/// The digest of the first `bytes` bytes of the file, or of as many as there are.
fn digest(file: &File, bytes: u64) -> io::Result<u128> {
    let mut hasher = Xxh3::new();
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    while at < bytes {
        let wanted = usize::try_from(bytes - at).map_or(PIECE, |left| left.min(PIECE));
        match file.read_at(&mut piece[..wanted], at) {
            Ok(0) => break,
            Ok(count) => {
                hasher.update(&piece[..count]);
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

fn total_memory(memory: &GuestMemory) -> u64 {
    memory.iter().map(vm_memory::GuestMemoryRegion::len).sum()
}

/// What the loader says, without what it begins every message and the message in it with.
fn without_prefix(error: &loader::Error) -> String {
    error.to_string().replace("Kernel Loader: ", "")
}

fn load_command_line(memory: &GuestMemory, text: &str, limit: usize) -> Result<usize, KernelError> {
    let bytes = text.as_bytes();
    let limit = limit.min(layout::COMMAND_LINE_BYTES - 1);
    if bytes.len() > limit {
        return Err(KernelError::CommandLineTooLong { bytes: bytes.len(), limit });
    }
    if let Some(at) = bytes.iter().position(|byte| *byte == 0) {
        return Err(KernelError::CommandLineZero { at });
    }
    memory
        .write_slice(bytes, GuestAddress(layout::COMMAND_LINE))
        .and_then(|()| memory.write_obj(0u8, GuestAddress(layout::COMMAND_LINE + bytes.len() as u64)))
        .map_err(KernelError::BootData)?;
    Ok(bytes.len())
}
