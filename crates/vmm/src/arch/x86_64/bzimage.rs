//! The 64-bit Linux boot protocol (Linux, Documentation/arch/x86/boot.rst, "64-bit Boot Protocol", and
//! Documentation/arch/x86/zero-page.rst).

use std::os::unix::fs::FileExt as _;

use devices::GuestMemory;
use linux_loader::{
    loader::bootparam::{boot_e820_entry, boot_params, setup_header},
    loader::{self, KernelLoader as _},
};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryError};

use super::{
    boot_file::{BootFile, KernelError, Loaded, low_memory},
    layout,
};

/// `HdrS` at offset 0x202 marks a kernel of boot protocol 2.00 or later.
const HEADER_MAGIC: &[u8; 4] = b"HdrS";
/// First protocol version that tells whether there is a 64-bit entry (`xloadflags`).
const PROTOCOL_2_12: u16 = 0x020c;
/// `XLF_KERNEL_64`: the kernel has a 64-bit entry 0x200 bytes after its start.
const XLF_KERNEL_64: u16 = 1;
/// Boot loader id "undefined".
const LOADER_UNDEFINED: u8 = 0xff;
/// `LOADED_HIGH | CAN_USE_HEAP`.
const LOAD_FLAGS: u8 = 0x01 | 0x80;

/// What the kernel says of itself, and where it was put.
pub(super) struct Header {
    setup: setup_header,
    /// The 64-bit entry.
    pub(super) entry: u64,
    /// End of the memory that the kernel needs before it knows the memory map.
    pub(super) memory_end: u64,
    /// Highest address that the initrd may occupy.
    pub(super) initrd_addr_max: u32,
    /// Longest command line, without its zero.
    pub(super) command_line_limit: usize,
}

/// Loads the kernel at its preferred address.
pub(super) fn load(memory: &GuestMemory, kernel: &mut BootFile) -> Result<Header, KernelError> {
    let mut magic = [0; 4];
    if kernel.file.read_exact_at(&mut magic, 0x202).is_err() || magic != *HEADER_MAGIC {
        return Err(KernelError::NotAKernel { path: kernel.path.clone() });
    }
    let result =
        loader::BzImage::load(memory, None, &mut kernel.file, Some(GuestAddress(layout::HIGH_MEMORY)))
            .map_err(|error| kernel.cannot_load(memory, &error.to_string()))?;
    let Some(setup) = result.setup_header else {
        return Err(KernelError::NotAKernel { path: kernel.path.clone() });
    };
    if setup.version < PROTOCOL_2_12 || setup.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(KernelError::No64BitEntry { path: kernel.path.clone() });
    }
    // A relocatable kernel unpacks itself at its preferred address when it was loaded below it, and needs `init_size`
    // bytes there; one loaded above needs them where it is.
    let unpacked_at = result.kernel_load.0.max(setup.pref_address);
    let memory_end = unpacked_at.saturating_add(setup.init_size.into()).max(result.kernel_end);
    if memory_end > low_memory(memory) {
        let detail = format!("it needs memory up to {memory_end:#x}");
        return Err(kernel.cannot_load(memory, &detail));
    }
    Ok(Header {
        entry: result.kernel_load.0 + 0x200,
        memory_end,
        initrd_addr_max: setup.initrd_addr_max,
        command_line_limit: usize::try_from(setup.cmdline_size).unwrap_or(usize::MAX),
        setup,
    })
}

/// Writes the zero page, the page tables and the segment descriptors that [`super::Entry::Long`] needs.
pub(super) fn write_zero_page(
    memory: &GuestMemory,
    header: &Header,
    loaded: &Loaded,
) -> Result<(), GuestMemoryError> {
    let mut zero_page = boot_params { hdr: header.setup, ..Default::default() };
    zero_page.hdr.type_of_loader = LOADER_UNDEFINED;
    zero_page.hdr.loadflags |= LOAD_FLAGS;
    zero_page.hdr.heap_end_ptr = 0xfe00;
    zero_page.hdr.cmd_line_ptr = to_u32(layout::COMMAND_LINE);
    zero_page.hdr.cmdline_size = u32::try_from(loaded.command_line_bytes).unwrap_or(0);
    zero_page.hdr.ramdisk_image = to_u32(loaded.initrd.0);
    zero_page.hdr.ramdisk_size = to_u32(loaded.initrd.1);
    zero_page.acpi_rsdp_addr = layout::ACPI_TABLES;
    let map = layout::memory_map(loaded.memory_bytes);
    for (row, entry) in zero_page.e820_table.iter_mut().zip(&map) {
        *row = boot_e820_entry { addr: entry.start, size: entry.bytes, r#type: entry.kind };
    }
    zero_page.e820_entries = u8::try_from(map.len()).unwrap_or(0);
    memory.write_obj(zero_page, GuestAddress(layout::START_INFO))?;
    write_page_tables(memory)
}

/// The first 4 GiB, mapped to themselves with 2 MiB pages.
fn write_page_tables(memory: &GuestMemory) -> Result<(), GuestMemoryError> {
    /// Present and writable.
    const TABLE: u64 = 0b11;
    /// Present, writable, a page of its own rather than a table.
    const PAGE_2_MIB: u64 = 0b1000_0011;
    let pdpt = layout::PAGE_TABLES + 0x1000;
    memory.write_obj(pdpt | TABLE, GuestAddress(layout::PAGE_TABLES))?;
    for gib in 0..4u64 {
        let directory = pdpt + 0x1000 * (gib + 1);
        memory.write_obj(directory | TABLE, GuestAddress(pdpt + gib * 8))?;
        for index in 0..512 {
            let page = (gib << 30) | (index << 21);
            memory.write_obj(page | PAGE_2_MIB, GuestAddress(directory + index * 8))?;
        }
    }
    Ok(())
}

/// Addresses below 4 GiB: callers pass what was placed there.
fn to_u32(address: u64) -> u32 {
    u32::try_from(address).unwrap_or(0)
}
