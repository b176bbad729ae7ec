//! Putting a kernel, its initrd and its command line into guest memory.

use std::{io, os::unix::fs::FileExt as _, path::Path};

use devices::GuestMemory;
use linux_loader::loader::{self, KernelLoader as _, elf::PvhBootCapability};
use vm_memory::{Bytes as _, GuestAddress};

use super::{
    boot_file::{BootFile, KernelError, Loaded, low_memory, total_memory},
    bzimage, gdt, layout, pvh, reset_vector,
};

/// The files a machine boots from. They stay open: a reset boots the same ones again, whatever has been put in their place or
/// removed since.
#[derive(Debug)]
pub(crate) struct BootFiles {
    pub(crate) kernel: BootFile,
    pub(crate) initrd: Option<BootFile>,
}

/// Where and how the first vCPU starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// 32-bit protected mode, `ebx` at the start info (Xen PVH ABI).
    Pvh { address: u64 },
    /// Long mode with identity-mapped memory, `rsi` at the zero page (Linux 64-bit boot protocol).
    Long { address: u64 },
}

impl Entry {
    /// Whether the vCPU starts in long mode.
    pub(super) fn is_long(self) -> bool {
        matches!(self, Self::Long { .. })
    }
}

impl BootFiles {
    /// Opens kernel and initrd, and reads them; `beat` is called whenever something was read.
    pub(crate) fn open(kernel: &Path, initrd: Option<&Path>, beat: &dyn Fn()) -> Result<Self, KernelError> {
        Ok(Self {
            kernel: BootFile::open("kernel", kernel, beat)?,
            initrd: initrd.map(|path| BootFile::open("initrd", path, beat)).transpose()?,
        })
    }

    /// Kernel and initrd.
    pub(crate) fn all(&self) -> impl Iterator<Item = &BootFile> {
        std::iter::once(&self.kernel).chain(&self.initrd)
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
