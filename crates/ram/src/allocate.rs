use std::{fmt, fs::File, io, os::fd::OwnedFd, ptr::NonNull};

use rustix::fs::MemfdFlags;
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend, GuestRegionMmap,
    bitmap::{AtomicBitmap, NewBitmap},
    mmap::MmapRegionBuilder,
};

use crate::{GuestMemory, PAGE_SIZE};

/// Bytes of a 2 MiB huge page.
const HUGE_PAGE: usize = 2 << 20;

/// What guest memory is made of on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Private anonymous memory; transparent huge pages are asked for.
    Anonymous,
    /// A memfd, mapped shared: another process can be given the same memory.
    Memfd,
    /// A memfd of 2 MiB huge pages from the host's pool (`/proc/sys/vm/nr_hugepages`), reserved at once.
    Hugetlb2M,
}

/// One range of guest-physical memory to allocate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockLayout {
    /// Name in messages and on the wire, for example `ram.low`.
    pub name: String,
    /// First guest-physical address; a multiple of the page size of the backing.
    pub guest_address: u64,
    /// Bytes; a multiple of the page size of the backing.
    pub bytes: u64,
}

/// One range of guest memory, mapped into this process.
pub struct Block {
    pub(crate) layout: BlockLayout,
    pub(crate) host: NonNull<u8>,
}

/// The memory of one machine. Cheap to clone: all clones are the same memory, which is freed with the last of them.
#[derive(Clone)]
pub struct Ram {
    pub(crate) blocks: std::sync::Arc<[Block]>,
    pub(crate) memory: GuestMemory,
    pub(crate) backing: Option<Backing>,
}

/// Why guest memory could not be had, or cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// The host has no such memory.
    #[error("Cannot allocate {mib} MiB of guest memory '{name}' ({backing}): {advice}")]
    Allocate {
        /// Name of the block.
        name: String,
        /// Size of the block.
        mib: u64,
        /// What kind of memory was asked for.
        backing: Backing,
        /// What to do about it.
        advice: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The layout cannot be mapped: sizes or addresses that are not page multiples, or that overlap.
    #[error("Guest memory layout is not possible: {0}")]
    Layout(String),
    /// The caller's memory has no region at all.
    #[error("Guest memory has no region: give it at least one")]
    NoRegion,
    /// The caller's memory has another number of regions than there are names.
    #[error(
        "Guest memory has {regions} regions and {names} names: give each region one name, in the order of addresses"
    )]
    Names {
        /// Regions of the memory.
        regions: usize,
        /// Names that were given.
        names: usize,
    },
    /// Two regions of the caller's memory have the same name.
    #[error("Two regions of guest memory are named '{name}': give each a name of its own")]
    SameName {
        /// The name.
        name: String,
    },
    /// A region of the caller's memory cannot be moved.
    #[error("Region '{name}' of guest memory ({bytes} bytes at {guest_address:#x}) cannot be used: {reason}")]
    Region {
        /// Name of the region.
        name: String,
        /// First guest-physical address.
        guest_address: u64,
        /// Size in bytes.
        bytes: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl Ram {
    /// Allocates all blocks. Fresh memory reads as zero everywhere.
    ///
    /// # Errors
    /// The layout is not possible, or the host does not have the memory. Nothing stays allocated then.
    pub fn allocate(layout: &[BlockLayout], backing: Backing) -> Result<Self, RamError> {
        let regions = layout.iter().map(|block| map(block, backing)).collect::<Result<Vec<_>, _>>()?;
        let memory =
            GuestMemory::from_regions(regions).map_err(|error| RamError::Layout(error.to_string()))?;
        let blocks = layout.iter().zip(memory.iter()).map(|(layout, region)| Block {
            layout: layout.clone(),
            host: NonNull::new(region.as_ptr()).expect("mmap does not return null"),
        });
        Ok(Self { blocks: blocks.collect(), memory, backing: Some(backing) })
    }

    /// No memory: what a machine has between two others, when the old memory is to be gone before there is new.
    #[must_use]
    pub fn none() -> Self {
        Self { blocks: std::sync::Arc::new([]), memory: GuestMemory::new(), backing: None }
    }

    /// The blocks, in the order of their guest-physical addresses.
    #[must_use]
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// The same memory as devices see it.
    #[must_use]
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// What the memory is made of; `None` if it is the caller's ([`Self::of`]), or if there is none.
    #[must_use]
    pub fn backing(&self) -> Option<Backing> {
        self.backing
    }

    /// Bytes of all blocks together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.blocks.iter().map(Block::bytes).sum()
    }
}

impl Block {
    /// Name in messages and on the wire.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.layout.name
    }

    /// First guest-physical address.
    #[must_use]
    pub fn guest_address(&self) -> u64 {
        self.layout.guest_address
    }

    /// Size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.layout.bytes
    }

    /// Size in pages of [`PAGE_SIZE`].
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.layout.bytes / PAGE_SIZE as u64
    }

    /// Where the block is mapped. Valid for [`Self::bytes`] bytes while the [`Ram`] lives. The guest writes here at any
    /// time: never make a reference of it.
    #[must_use]
    pub fn host_address(&self) -> NonNull<u8> {
        self.host
    }
}

// SAFETY: the pointer is to a shared mapping that lives as long as the `Ram` that holds the block; it is only ever
// dereferenced through raw pointers and system calls, for which concurrent writers (the guest) are expected.
unsafe impl Send for Block {}
// SAFETY: as above; a `Block` has no interior state of its own.
unsafe impl Sync for Block {}

fn map(layout: &BlockLayout, backing: Backing) -> Result<GuestRegionMmap<AtomicBitmap>, RamError> {
    let alignment = if backing == Backing::Hugetlb2M { HUGE_PAGE } else { PAGE_SIZE } as u64;
    if layout.bytes == 0
        || !layout.bytes.is_multiple_of(alignment)
        || !layout.guest_address.is_multiple_of(alignment)
    {
        return Err(RamError::Layout(format!(
            "block '{}' ({} bytes at {:#x}) is not a multiple of {alignment} bytes",
            layout.name, layout.bytes, layout.guest_address
        )));
    }
    let failed = |advice: &'static str, source: io::Error| RamError::Allocate {
        name: layout.name.clone(),
        mib: layout.bytes >> 20,
        backing,
        advice,
        source,
    };
    let advice = match backing {
        Backing::Hugetlb2M => "reserve enough 2 MiB pages: echo N >/proc/sys/vm/nr_hugepages",
        Backing::Anonymous | Backing::Memfd => "give the machine less memory, or free some on the host",
    };
    let bytes =
        usize::try_from(layout.bytes).map_err(|_| RamError::Layout("more than the address space".into()))?;
    let flags = match backing {
        Backing::Anonymous => libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
        // Huge pages are reserved by the mapping (no MAP_NORESERVE): running out later would be a SIGBUS in the guest.
        Backing::Memfd => libc::MAP_SHARED | libc::MAP_NORESERVE,
        Backing::Hugetlb2M => libc::MAP_SHARED,
    };
    let mut builder = MmapRegionBuilder::new_with_bitmap(bytes, AtomicBitmap::with_len(bytes))
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(flags);
    if backing != Backing::Anonymous {
        let file = memfd(&layout.name, layout.bytes, backing).map_err(|error| failed(advice, error))?;
        builder = builder.with_file_offset(FileOffset::new(file, 0));
    }
    let region = builder.build().map_err(|error| failed(advice, io::Error::other(error.to_string())))?;
    if backing == Backing::Anonymous {
        // SAFETY: the range was mapped just above and is not used yet; the advice changes no contents.
        // A kernel without transparent huge pages refuses, and the memory works without them.
        let _ = unsafe { libc::madvise(region.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
    }
    let region = GuestRegionMmap::new(region, GuestAddress(layout.guest_address));
    region.ok_or_else(|| RamError::Layout(format!("block '{}' wraps around", layout.name)))
}

fn memfd(name: &str, bytes: u64, backing: Backing) -> io::Result<File> {
    let flags = match backing {
        Backing::Hugetlb2M => MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB,
        _ => MemfdFlags::CLOEXEC,
    };
    let fd: OwnedFd = rustix::fs::memfd_create(name, flags)?;
    rustix::fs::ftruncate(&fd, bytes)?;
    Ok(File::from(fd))
}

impl fmt::Display for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "anonymous",
            Self::Memfd => "memfd",
            Self::Hugetlb2M => "hugetlb",
        })
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Block({} at {:#x}, {} MiB)",
            self.layout.name,
            self.layout.guest_address,
            self.layout.bytes >> 20
        )
    }
}

impl fmt::Debug for Ram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ram")
            .field("blocks", &self.blocks)
            .field("backing", &self.backing)
            .finish_non_exhaustive()
    }
}
