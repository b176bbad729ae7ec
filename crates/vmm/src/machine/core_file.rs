//! A core file of a machine: ELF, with what is here of its memory and the registers of its vCPUs, for crash tools.

use std::{
    fs::File,
    io::{self, Write as _},
    ops::Range,
    os::unix::fs::FileExt as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use object::{
    LittleEndian, U16, U32, U64,
    elf::{self, FileHeader64, Ident, NoteHeader32, ProgramHeader64},
    pod::bytes_of,
};
use ram::{Incomplete, PAGE_SIZE, Ram};
use vm_memory::{Bytes as _, GuestAddress};

use super::{Machine, board::VcpuError};
use crate::arch::{CoreNote, CoreRegisters};

/// Segments of memory at most: more cannot be counted in the header. Where there would be more, some have pages in them that
/// are missing, and read as zero.
const MAX_SEGMENTS: usize = 0xff00;
/// Bytes that are written at once.
const CHUNK: u64 = 1 << 20;
const PAGE: u64 = PAGE_SIZE as u64;

/// What is to be written of a machine that stands still.
pub(crate) struct CoreFile {
    ram: Ram,
    /// Its memory, where some of it is missing.
    lacking: Option<Arc<Incomplete>>,
    segments: Vec<Segment>,
    notes: Vec<u8>,
}

/// Memory that is written in one piece.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Segment {
    block: usize,
    /// Pages of the block.
    pages: Range<u64>,
}

impl Machine {
    /// What a core file of it has, without pages that are still to come. It must stand still until that is written.
    ///
    /// # Errors
    /// A vCPU cannot be read.
    pub(crate) fn core(&self) -> Result<CoreFile, VcpuError> {
        let lacking = self.lacking.lock().upgrade().filter(|memory| memory.remaining() > 0);
        let vcpus = self.board.on_vcpus(|_| |fd: &mut _| CoreRegisters::read(fd))?;
        let notes = (0..).zip(&vcpus).flat_map(|(index, vcpu)| vcpu.notes(index));
        let notes = notes.flat_map(|note| encode(&note)).collect();
        let pages: Vec<u64> = self.ram().blocks().iter().map(ram::Block::pages).collect();
        let is_here = |block: usize, page: u64| {
            lacking.as_ref().is_none_or(|memory| memory.is_here(block, page..page + 1))
        };
        let segments = match lacking {
            None => {
                pages.iter().enumerate().map(|(block, &pages)| Segment { block, pages: 0..pages }).collect()
            }
            Some(_) => segments(&pages, is_here, MAX_SEGMENTS),
        };
        Ok(CoreFile { ram: self.ram().clone(), lacking, segments, notes })
    }
}

impl CoreFile {
    /// Bytes of memory that are written.
    pub(crate) fn bytes(&self) -> u64 {
        self.segments.iter().map(Segment::bytes).sum()
    }

    /// Writes it to an empty file, and counts the bytes of memory in `done`. The header comes last: what breaks off is no core file.
    pub(crate) fn write(&self, file: &mut File, done: &AtomicU64) -> io::Result<()> {
        let header = self.header()?;
        // Room for it.
        file.write_all(&vec![0; header.len()])?;
        for segment in &self.segments {
            let mut page = segment.pages.start;
            while page < segment.pages.end {
                let next = self.write_some(file, segment.block, page..segment.pages.end)?;
                done.fetch_add((next - page) * PAGE, Ordering::Relaxed);
                page = next;
            }
        }
        file.write_all_at(&header, 0)?;
        file.sync_data()
    }

    /// Writes the first of these pages. Returns the first that was not written.
    fn write_some(&self, file: &mut File, block: usize, pages: Range<u64>) -> io::Result<u64> {
        let end = pages.end.min(pages.start + CHUNK / PAGE);
        let here = self.is_here(block, pages.start);
        let next = (pages.start + 1..end).find(|page| self.is_here(block, *page) != here).unwrap_or(end);
        let bytes = ((next - pages.start) * PAGE) as usize;
        match self.ram.blocks().get(block).filter(|_| here) {
            Some(block) => {
                let address = GuestAddress(block.guest_address() + pages.start * PAGE);
                self.ram.memory().write_all_volatile_to(address, file, bytes).map_err(io::Error::other)?;
            }
            // Whoever touches it waits for it.
            None => file.write_all(&vec![0; bytes])?,
        }
        Ok(next)
    }

    fn is_here(&self, block: usize, page: u64) -> bool {
        self.lacking.as_ref().is_none_or(|memory| memory.is_here(block, page..page + 1))
    }

    /// All that stands before memory, which begins at a page of the file.
    fn header(&self) -> io::Result<Vec<u8>> {
        let count = self.segments.len() + 1;
        let notes_at =
            size_of::<FileHeader64<LittleEndian>>() + count * size_of::<ProgramHeader64<LittleEndian>>();
        let bytes = (notes_at + self.notes.len()).next_multiple_of(PAGE_SIZE);
        let mut header = Vec::with_capacity(bytes);
        let count = u16::try_from(count).map_err(io::Error::other)?;
        header.extend(bytes_of(&file_header(count)));
        let notes = Piece { at: notes_at as u64, address: 0, bytes: self.notes.len() as u64, align: 4 };
        header.extend(bytes_of(&notes.header(elf::PT_NOTE, 0)));
        let mut at = bytes as u64;
        for segment in &self.segments {
            let start = self.ram.blocks().get(segment.block).map_or(0, ram::Block::guest_address);
            let address = start + segment.pages.start * PAGE;
            let memory = Piece { at, address, bytes: segment.bytes(), align: PAGE };
            header.extend(bytes_of(&memory.header(elf::PT_LOAD, elf::PF_R | elf::PF_W | elf::PF_X)));
            at += segment.bytes();
        }
        header.extend(&self.notes);
        header.resize(bytes, 0);
        Ok(header)
    }
}

impl Segment {
    fn bytes(&self) -> u64 {
        (self.pages.end - self.pages.start) * PAGE
    }
}

/// A piece of the file, and where it is in memory.
struct Piece {
    at: u64,
    address: u64,
    bytes: u64,
    align: u64,
}

impl Piece {
    fn header(&self, kind: u32, flags: u32) -> ProgramHeader64<LittleEndian> {
        let word = |value| U64::new(LittleEndian, value);
        ProgramHeader64 {
            p_type: U32::new(LittleEndian, kind),
            p_flags: U32::new(LittleEndian, flags),
            p_offset: word(self.at),
            p_vaddr: word(self.address),
            p_paddr: word(self.address),
            p_filesz: word(self.bytes),
            p_memsz: word(self.bytes),
            p_align: word(self.align),
        }
    }
}

fn file_header(segments: u16) -> FileHeader64<LittleEndian> {
    let half = |value| U16::new(LittleEndian, value);
    let (none, nothing) = (U64::new(LittleEndian, 0), half(0));
    let bytes = size_of::<FileHeader64<LittleEndian>>();
    FileHeader64 {
        e_ident: Ident {
            magic: elf::ELFMAG,
            class: elf::ELFCLASS64,
            data: elf::ELFDATA2LSB,
            version: elf::EV_CURRENT,
            os_abi: elf::ELFOSABI_NONE,
            abi_version: 0,
            padding: [0; 7],
        },
        e_type: half(elf::ET_CORE),
        e_machine: half(elf::EM_X86_64),
        e_version: U32::new(LittleEndian, elf::EV_CURRENT.into()),
        e_entry: none,
        e_phoff: U64::new(LittleEndian, bytes as u64),
        e_shoff: none,
        e_flags: U32::new(LittleEndian, 0),
        e_ehsize: half(bytes as u16),
        e_phentsize: half(size_of::<ProgramHeader64<LittleEndian>>() as u16),
        e_phnum: half(segments),
        e_shentsize: nothing,
        e_shnum: nothing,
        e_shstrndx: nothing,
    }
}

/// A note as it stands in the file: name and contents are padded to four bytes each.
fn encode(note: &CoreNote) -> Vec<u8> {
    let word = |value: usize| U32::new(LittleEndian, value as u32);
    let header = NoteHeader32 {
        n_namesz: word(note.name.len() + 1),
        n_descsz: word(note.contents.len()),
        n_type: U32::new(LittleEndian, note.kind),
    };
    let mut bytes = bytes_of(&header).to_vec();
    for part in [&[note.name.as_bytes(), &[0]].concat(), &note.contents] {
        bytes.extend(part);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

/// Memory that is here, in at most `most` segments for each block: the finer the better.
fn segments(blocks: &[u64], is_here: impl Fn(usize, u64) -> bool, most: usize) -> Vec<Segment> {
    let most = most / blocks.len().max(1);
    let block = |(block, &pages): (usize, &u64)| {
        let runs = |unit: u64| runs(pages, unit, |page| is_here(block, page));
        let mut unit = 1;
        while runs(unit).nth(most).is_some() {
            unit *= 2;
        }
        runs(unit).map(move |pages| Segment { block, pages }).collect::<Vec<_>>()
    };
    blocks.iter().enumerate().flat_map(block).collect()
}

/// Stretches of units, of so many pages each, in which a page is here.
fn runs(pages: u64, unit: u64, is_here: impl Fn(u64) -> bool) -> impl Iterator<Item = Range<u64>> {
    let has_some = move |start: u64| (start..pages.min(start + unit)).any(&is_here);
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < pages && !has_some(at) {
            at += unit;
        }
        let start = at;
        while at < pages && has_some(at) {
            at += unit;
        }
        (start < pages).then_some(start..at.min(pages))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_here_is_in_a_segment_and_what_is_missing_only_where_segments_are_few() {
        let is_here = |_: usize, page: u64| page.is_multiple_of(3);
        let fine = segments(&[10, 4], is_here, 100);
        let starts: Vec<_> = fine.iter().map(|segment| (segment.block, segment.pages.clone())).collect();
        assert_eq!(starts, [(0, 0..1), (0, 3..4), (0, 6..7), (0, 9..10), (1, 0..1), (1, 3..4)]);
        let coarse = segments(&[1 << 20], is_here, 500);
        assert!(coarse.len() <= 500, "{}", coarse.len());
        let covered = |page| coarse.iter().any(|segment| segment.pages.contains(&page));
        assert!((0..1 << 20).step_by(3 * 1021).all(covered));
        assert!(segments(&[8], |_, _| false, 5).is_empty());
    }
}
