//! The guest-physical memory map and the interrupt lines of a machine.
//!
//! | address | what |
//! |---|---|
//! | `0x500` – `0x9_fc00` | RAM: GDT, boot structures, page tables, command line |
//! | `0xe_0000` – `0xf_fff0` | ACPI tables (reserved for the guest) |
//! | `0xf_fff0` – `0x10_0000` | reset vector (likewise) |
//! | `0x10_0000` – 3 GiB | RAM: kernel; initrd at its top |
//! | `0xfeb0_0000` | virtio-mmio, 512 bytes each |
//! | `0xfec0_0000`, `0xfee0_0000` | IOAPIC, local APICs |
//! | `0xfffb_c000` – `0xfffc_0000` | pages that KVM needs on Intel processors |
//! | 4 GiB – | RAM |

use ram::BlockLayout;

/// End of low RAM and start of the hole for devices: 3 GiB.
pub(crate) const HOLE_START: u64 = 0xc000_0000;
/// End of the hole and start of high RAM: 4 GiB.
pub(crate) const HOLE_END: u64 = 1 << 32;

/// Boot structures for a kernel that enters in long mode: segment descriptors.
pub(crate) const GDT: u64 = 0x500;
/// `hvm_start_info` of the PVH boot ABI, or the zero page of the Linux boot protocol.
pub(crate) const START_INFO: u64 = 0x7000;
/// Module list and memory map of the PVH boot ABI.
pub(crate) const PVH_TABLES: u64 = 0x8000;
/// Page tables for a kernel that enters in long mode: PML4, one PDPT, four page directories.
pub(crate) const PAGE_TABLES: u64 = 0x9000;
/// Kernel command line.
pub(crate) const COMMAND_LINE: u64 = 0x2_0000;
/// Longest command line in bytes, with its terminating zero. Linux itself takes 2048 on x86; a guest of another kind
/// may take more, and 64 KiB are free here.
pub(crate) const COMMAND_LINE_BYTES: usize = 0x1_0000;
/// End of conventional memory, where a PC's firmware keeps its data.
pub(crate) const CONVENTIONAL_END: u64 = 0x9_fc00;
/// Start of conventional memory's hole.
pub(crate) const VIDEO_START: u64 = 0xa_0000;
/// ACPI tables, RSDP first: where ACPI 6.5, 5.2.5.1 has a guest without firmware tables look for it.
pub(crate) const ACPI_TABLES: u64 = 0xe_0000;
/// End of the room for ACPI tables.
pub(crate) const ACPI_TABLES_END: u64 = RESET_VECTOR;
/// Where a PC's firmware is entered in real mode: F000:FFF0.
pub(crate) const RESET_VECTOR: u64 = 0xf_fff0;
/// Start of memory past 1 MiB, where kernels are loaded.
pub(crate) const HIGH_MEMORY: u64 = 0x10_0000;

/// I/O ports of the serial port: COM1 of a PC.
pub(crate) const SERIAL_PORTS: u16 = 0x3f8;
/// I/O ports of the ACPI power device.
pub(crate) const POWER_PORTS: u16 = 0x600;

/// First virtio-mmio device; the same as in QEMU's microvm machine.
pub(crate) const VIRTIO_START: u64 = 0xfeb0_0000;
/// Bytes of one virtio-mmio device.
pub(crate) const VIRTIO_BYTES: u64 = 0x200;
/// I/O interrupt controller.
pub(crate) const IOAPIC: u32 = 0xfec0_0000;
/// Local interrupt controllers.
pub(crate) const LOCAL_APIC: u32 = 0xfee0_0000;
/// The page that KVM uses to run real mode on Intel processors (Linux, Documentation/virt/kvm/api.rst, 4.41).
pub(crate) const IDENTITY_MAP: u64 = 0xfffb_c000;
/// Three more pages for the same purpose (4.36).
pub(crate) const KVM_TSS: usize = 0xfffb_d000;

/// Interrupt line of the serial port.
pub(crate) const GSI_SERIAL: u32 = 4;
/// Interrupt line of the power button and other ACPI events.
pub(crate) const GSI_ACPI: u32 = 9;
/// Interrupt lines of the virtio-mmio devices, in their order: every line of the IOAPIC that no PC device has by custom
/// (0 timer, 1 keyboard, 2 cascade, 3 and 4 serial, 8 clock, 9 ACPI, 13 coprocessor).
pub(crate) const GSI_VIRTIO: [u32; 16] = [5, 6, 7, 10, 11, 12, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23];

/// Largest number of vCPUs.
pub(crate) const MAX_CPUS: u8 = 64;

/// The blocks of a machine with `bytes` of memory.
pub(crate) fn blocks(bytes: u64) -> Vec<BlockLayout> {
    let low = bytes.min(HOLE_START);
    let mut blocks = vec![BlockLayout { name: "ram.low".into(), guest_address: 0, bytes: low }];
    if bytes > low {
        blocks.push(BlockLayout { name: "ram.high".into(), guest_address: HOLE_END, bytes: bytes - low });
    }
    blocks
}

/// Address and interrupt line of virtio-mmio slot `index`; none when there are no more slots.
pub(crate) fn virtio_slot(index: usize) -> Option<(u64, u32)> {
    GSI_VIRTIO.get(index).map(|gsi| (VIRTIO_START + VIRTIO_BYTES * index as u64, *gsi))
}

/// A range of the memory map that the guest is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MapEntry {
    pub(crate) start: u64,
    pub(crate) bytes: u64,
    /// Type of the range as in the E820 map: 1 is RAM, 2 is reserved.
    pub(crate) kind: u32,
}

/// Usable memory in the E820 map (ACPI 6.5, table 15.3).
pub(crate) const E820_RAM: u32 = 1;
/// Memory in the E820 map that the guest leaves alone.
pub(crate) const E820_RESERVED: u32 = 2;

/// What the guest is told of its memory.
pub(crate) fn memory_map(bytes: u64) -> Vec<MapEntry> {
    let range = |start: u64, end: u64, kind| MapEntry { start, bytes: end - start, kind };
    let mut map = vec![
        range(0, CONVENTIONAL_END, E820_RAM),
        range(CONVENTIONAL_END, VIDEO_START, E820_RESERVED),
        range(ACPI_TABLES, HIGH_MEMORY, E820_RESERVED),
    ];
    map.extend(blocks(bytes).iter().map(|block| {
        range(block.guest_address.max(HIGH_MEMORY), block.guest_address + block.bytes, E820_RAM)
    }));
    map
}
