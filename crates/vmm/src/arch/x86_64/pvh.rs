//! The PVH boot ABI (Xen, docs/misc/pvh.pandoc and xen/include/public/arch-x86/hvm/start_info.h).

use devices::GuestMemory;
use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryError};

use super::{boot_file::Loaded, layout};

/// `XEN_HVM_START_MAGIC_VALUE`.
const MAGIC: u32 = 0x336e_c578;
/// The version that brought the memory map.
const VERSION: u32 = 1;

/// Writes the start info, and what it points to, where [`super::Entry::Pvh`] leads the kernel.
pub(super) fn write_start_info(memory: &GuestMemory, loaded: &Loaded) -> Result<(), GuestMemoryError> {
    let (initrd, initrd_bytes) = loaded.initrd;
    let module = hvm_modlist_entry { paddr: initrd, size: initrd_bytes, ..Default::default() };
    memory.write_obj(module, GuestAddress(layout::PVH_TABLES))?;

    let map = layout::memory_map(loaded.memory_bytes);
    let map_address = layout::PVH_TABLES + size_of::<hvm_modlist_entry>() as u64;
    for (index, entry) in (0u64..).zip(&map) {
        let row =
            hvm_memmap_table_entry { addr: entry.start, size: entry.bytes, type_: entry.kind, reserved: 0 };
        memory.write_obj(row, GuestAddress(map_address + index * size_of_val(&row) as u64))?;
    }

    let info = hvm_start_info {
        magic: MAGIC,
        version: VERSION,
        flags: 0,
        nr_modules: (initrd_bytes > 0).into(),
        modlist_paddr: layout::PVH_TABLES,
        cmdline_paddr: layout::COMMAND_LINE,
        rsdp_paddr: layout::ACPI_TABLES,
        memmap_paddr: map_address,
        memmap_entries: u32::try_from(map.len()).unwrap_or(0),
        reserved: 0,
    };
    memory.write_obj(info, GuestAddress(layout::START_INFO))
}
