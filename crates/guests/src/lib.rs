//! The workload guest as bytes, and a reader for what it prints.
//!
//! The guest (its source and its manual are in `guests/workload`) is a kernel image of its own: an ELF file
//! with a PVH entry point, to be booted by any VMM that knows PVH. It dirties memory at the rate that its
//! command line asks for, checks all its memory all the time, and prints a line about it each second, which
//! [`parse_report`] reads.

mod report;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

pub use report::{Report, parse_report};

/// The guest's ELF image.
pub static WORKLOAD: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/workload.elf"));

/// Writes the guest's image into `directory`, for a VMM that takes a path. Returns the path, which is the
/// same each time; an image that is there already is replaced in one step.
///
/// # Errors
/// What the file system says.
pub fn write_workload(directory: &Path) -> io::Result<PathBuf> {
    let path = directory.join("whimbrel-workload.elf");
    let unfinished = directory.join(format!(".whimbrel-workload.elf.{}", std::process::id()));
    fs::write(&unfinished, WORKLOAD)?;
    fs::rename(&unfinished, &path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_small_and_has_a_pvh_note() {
        assert_eq!(WORKLOAD[..5], *b"\x7fELF\x02", "a 64-bit ELF file");
        assert!(WORKLOAD.len() < 256 << 10, "{} bytes", WORKLOAD.len());
        let note = [4u32, 8, 18].map(u32::to_le_bytes).concat();
        assert!(WORKLOAD.windows(note.len()).any(|window| window == note), "no note of type 18");
    }

    #[test]
    fn the_image_is_written_whole_and_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = write_workload(directory.path()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), WORKLOAD);
        assert_eq!(write_workload(directory.path()).unwrap(), path);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
