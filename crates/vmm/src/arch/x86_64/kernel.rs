//! Putting a kernel, its initrd and its command line into guest memory.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use devices::GuestMemory;
use linux_loader::loader::{self, KernelLoader as _, elf::PvhBootCapability};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend as _};

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

/// The files a machine boots from. They stay open, since a reset boots again and may not open anything by then.
#[derive(Debug)]
pub(crate) struct BootFiles {
    kernel: Named,
    initrd: Option<Named>,
}

/// An open file and what to call it.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) file: File,
    pub(super) path: PathBuf,
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
            kernel: Named::open("kernel", kernel)?,
            initrd: initrd.map(|path| Named::open("initrd", path)).transpose()?,
        })
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

impl Named {
    fn open(what: &'static str, path: &Path) -> Result<Self, KernelError> {
        let unreadable = |source| KernelError::Unreadable { what, path: path.to_owned(), source };
        let file = File::open(path).map_err(unreadable)?;
        if file.metadata().map_err(unreadable)?.is_dir() {
            return Err(unreadable(io::Error::from(io::ErrorKind::IsADirectory)));
        }
        Ok(Self { file, path: path.to_owned() })
    }

    pub(super) fn cannot_load(&self, memory: &GuestMemory, detail: &str) -> KernelError {
        let mib = low_memory(memory) >> 20;
        KernelError::Load { path: self.path.clone(), mib, detail: detail.into() }
    }
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
