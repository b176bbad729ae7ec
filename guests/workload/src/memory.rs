//! Physical memory: what there is, who has it, and the mapping of it.

use workload::page::{BYTES, Page};

use crate::boot;

const MAX_REGIONS: usize = 16;
const MAGIC: u32 = 0x336e_c578;
const MEMORY: u32 = 1;
const LARGE_PAGE: u64 = 2 << 20;
const GIB: u64 = 1 << 30;
/// One table of page directories reaches this far.
const MAPPABLE: u64 = 512 * GIB;
const PRESENT_WRITABLE_USER: u64 = 7;
const LARGE: u64 = 0x80;
/// A map with more entries than this is not read to its end.
const MAX_MEMORY_MAP: u32 = 256;

/// `struct hvm_start_info` (xen/include/public/arch-x86/hvm/start_info.h).
#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    modules: u32,
    modules_address: u64,
    command_line: u64,
    rsdp: u64,
    memory_map: u64,
    memory_map_entries: u32,
    reserved: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct MapEntry {
    start: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}

/// A range of physical memory, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Region {
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl Region {
    pub(crate) fn bytes(&self) -> u64 {
        self.end - self.start
    }
}

/// A few regions, in ascending order.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Regions {
    list: [Region; MAX_REGIONS],
    len: usize,
}

impl Regions {
    fn push(&mut self, region: Region) {
        if region.start < region.end && self.len < MAX_REGIONS {
            self.list[self.len] = region;
            self.len += 1;
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Region> {
        self.list[..self.len].iter()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.iter().map(Region::bytes).sum()
    }

    /// Cuts it in two at `bytes`, a multiple of a page.
    pub(crate) fn split(&self, bytes: u64) -> (Regions, Regions) {
        let (mut low, mut high, mut left) = (Regions::default(), Regions::default(), bytes);
        for region in self.iter() {
            let middle = region.start + left.min(region.bytes());
            low.push(Region { start: region.start, end: middle });
            high.push(Region { start: middle, end: region.end });
            left -= middle - region.start;
        }
        (low, high)
    }

    /// Where the `index`-th page of all is. It must be below the number of pages.
    #[inline]
    pub(crate) fn address(&self, index: u64) -> u64 {
        let mut offset = index * BYTES;
        for region in self.iter() {
            if offset < region.bytes() {
                return region.start + offset;
            }
            offset -= region.bytes();
        }
        panic!("page {index} is not owned")
    }
}

/// Memory from the end of the image on, from which pieces are taken once and never given back.
#[derive(Debug)]
pub(crate) struct Ram {
    free: Regions,
    /// Whether there is memory at [`Ram::LOW_PAGE`].
    pub(crate) has_low_page: bool,
}

/// Why we cannot start.
#[derive(Clone, Copy, Debug)]
pub(crate) enum BadStart {
    /// What EBX pointed to is no start info.
    Boot,
    /// There is no memory map in it.
    Map,
    /// The map has no memory behind the image.
    Memory,
}

impl BadStart {
    /// What to tell whoever built the machine.
    pub(crate) fn sentence(self) -> &'static str {
        match self {
            BadStart::Boot => "EBX does not point to a PVH start info",
            BadStart::Map => "The PVH start info has no memory map (version 1)",
            BadStart::Memory => "The memory map has no memory behind the image in the first GiB",
        }
    }
}

impl Ram {
    /// Where other CPUs start. What the loader put below 1 MiB has been read by then.
    pub(crate) const LOW_PAGE: u64 = 0x8000;

    /// Reads the memory map.
    pub(crate) fn new() -> Result<Self, BadStart> {
        let info = start_info()?;
        if info.version < 1 || info.memory_map == 0 || info.memory_map_entries == 0 {
            return Err(BadStart::Map);
        }
        let (mut free, mut has_low_page) = (Regions::default(), false);
        for index in 0..info.memory_map_entries.min(MAX_MEMORY_MAP) {
            let place = info.memory_map + u64::from(index) * size_of::<MapEntry>() as u64;
            // SAFETY: the loader put the map there, in the first GiB, which is mapped.
            let entry = unsafe { (place as *const MapEntry).read_unaligned() };
            if entry.kind != MEMORY {
                continue;
            }
            let end = entry.start.saturating_add(entry.size).min(MAPPABLE) / BYTES * BYTES;
            has_low_page |= entry.start <= Self::LOW_PAGE && end >= Self::LOW_PAGE + BYTES;
            let start = entry.start.max(boot::end_of_image()).next_multiple_of(BYTES);
            free.push(Region { start, end });
        }
        if free.bytes() == 0 || free.list[0].start >= GIB {
            Err(BadStart::Memory)
        } else {
            Ok(Self { free, has_low_page })
        }
    }

    /// Maps everything that is not mapped yet.
    pub(crate) fn map(&mut self) {
        let all = self.free;
        for region in all.iter() {
            let mut address = region.start / LARGE_PAGE * LARGE_PAGE;
            while address < region.end {
                self.map_large_page(address);
                address += LARGE_PAGE;
            }
        }
    }

    fn map_large_page(&mut self, address: u64) {
        let gib = (address / GIB) as usize;
        // SAFETY: the tables are no Rust objects otherwise, this is the only CPU that changes them, and an
        // entry that was empty needs no flush.
        unsafe {
            let directories = boot::page_directories();
            if (*directories)[gib] == 0 {
                (*directories)[gib] = self.take(BYTES, BYTES) | PRESENT_WRITABLE_USER;
            }
            let directory = ((*directories)[gib] & !0xfff) as *mut u64;
            let entry = directory.add((address % GIB / LARGE_PAGE) as usize);
            if entry.read_volatile() == 0 {
                entry.write_volatile(address | PRESENT_WRITABLE_USER | LARGE);
            }
        }
    }

    /// Takes `bytes` of zeroed memory, at a multiple of `align` (at most a page), from the first region with
    /// room. Panics if there is none: the guest has too little memory for what was asked.
    pub(crate) fn take(&mut self, bytes: u64, align: u64) -> u64 {
        for region in &mut self.free.list[..self.free.len] {
            let start = region.start.next_multiple_of(align);
            if start.checked_add(bytes).is_some_and(|end| end <= region.end) {
                region.start = start + bytes;
                // SAFETY: free memory that is mapped (the first GiB from the start, the rest by `map`), and
                // from now on the caller's alone.
                unsafe { core::ptr::write_bytes(start as *mut u8, 0, bytes as usize) };
                return start;
            }
        }
        panic!("too little memory: no {bytes} bytes in one piece")
    }

    /// What is still free, in whole pages.
    pub(crate) fn rest(&self) -> Regions {
        let mut rest = Regions::default();
        for region in self.free.iter() {
            rest.push(Region { start: region.start.next_multiple_of(BYTES), end: region.end });
        }
        rest
    }
}

/// Copies the command line out of the loader's memory.
pub(crate) fn copy_command_line(into: &mut [u8]) -> &str {
    let address = start_info().map_or(0, |info| info.command_line);
    let mut len = 0;
    if address != 0 {
        for byte in &mut *into {
            // SAFETY: the loader put a string there that ends in a zero byte, in the first GiB.
            *byte = unsafe { ((address as usize + len) as *const u8).read_volatile() };
            if *byte == 0 {
                break;
            }
            len += 1;
        }
    }
    // Bytes that are no text would make the whole line unreadable.
    into[..len].iter_mut().filter(|byte| !byte.is_ascii()).for_each(|byte| *byte = b'?');
    core::str::from_utf8(&into[..len]).unwrap_or("")
}

fn start_info() -> Result<StartInfo, BadStart> {
    let address = boot::start_info();
    if address == 0 {
        return Err(BadStart::Boot);
    }
    // SAFETY: PVH: EBX points to it, and the loader puts it into the first GiB.
    let info = unsafe { (address as *const StartInfo).read_unaligned() };
    if info.magic == MAGIC { Ok(info) } else { Err(BadStart::Boot) }
}

/// A page of physical memory, by its address.
///
/// # Safety
/// The address is that of a mapped page of memory that belongs to the caller alone for `'a`.
#[inline]
pub(crate) unsafe fn page<'a>(address: u64) -> &'a mut Page {
    // SAFETY: promised by the caller; any bytes are good words, and pages are aligned.
    unsafe { &mut *(address as *mut Page) }
}
