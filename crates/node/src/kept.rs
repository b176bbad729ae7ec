//! What a node keeps for people to read: the end of a machine's serial log, and the engine's reports.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use crate::folder::Folder;

/// The longest report that is read, in bytes.
const LONGEST_REPORT: u64 = 8 << 20;

/// The end of what the guest in a VMM has written to its serial port, at most so many bytes. `None` if there is no such VMM on the node.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn serial_tail(directory: &Path, vmm: &str, most: u64) -> io::Result<Option<Vec<u8>>> {
    let Some(folder) = Folder::new(directory, vmm) else { return Ok(None) };
    let mut file = match File::open(folder.path().join("serial.log")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
    let mut tail = Vec::new();
    // The guest goes on writing.
    file.take(most).read_to_end(&mut tail)?;
    Ok(Some(tail))
}

/// The source's report of the migration with that session, as JSON. `None` if the node has none, or not yet.
///
/// # Errors
/// A file or a folder cannot be read.
pub(crate) fn report(directory: &Path, vmm: &str, session: &str) -> io::Result<Option<Vec<u8>>> {
    let is_session =
        !session.is_empty() && session.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '-');
    if !is_session {
        return Ok(None);
    }
    let end = format!("-{session}-source.json");
    // With the VMM while its folder is there, and with the node afterwards.
    let own = Folder::new(directory, vmm).map(|folder| folder.path().join("reports"));
    for folder in own.into_iter().chain([directory.join("reports")]) {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().ends_with(&end) {
                let mut report = Vec::new();
                File::open(entry.path())?.take(LONGEST_REPORT).read_to_end(&mut report)?;
                return Ok(Some(report));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> tempfile::TempDir {
        let node = tempfile::tempdir().unwrap();
        fs::create_dir_all(node.path().join("vmms/a-1/reports")).unwrap();
        fs::create_dir_all(node.path().join("reports")).unwrap();
        node
    }

    #[test]
    fn the_end_of_a_long_log_is_read_and_nothing_outside() {
        let node = node();
        fs::write(node.path().join("vmms/a-1/serial.log"), "0123456789").unwrap();
        fs::write(node.path().join("serial.log"), "secret").unwrap();
        let tail = |vmm, most| serial_tail(node.path(), vmm, most).unwrap();
        assert_eq!(tail("a-1", 4), Some(b"6789".to_vec()));
        assert_eq!(tail("a-1", 4000), Some(b"0123456789".to_vec()));
        for wrong in ["", "..", "../..", "a-1/..", "b"] {
            assert_eq!(tail(wrong, 4), None, "{wrong}");
        }
    }

    #[test]
    fn a_report_is_found_with_the_vmm_and_after_it() {
        let node = node();
        fs::write(node.path().join("vmms/a-1/reports/2026-abc-source.json"), "with").unwrap();
        fs::write(node.path().join("reports/2026-def-source.json"), "after").unwrap();
        fs::write(node.path().join("reports/2026-def-destination.json"), "other side").unwrap();
        let found = |session| report(node.path(), "a-1", session).unwrap();
        assert_eq!((found("abc"), found("def")), (Some(b"with".to_vec()), Some(b"after".to_vec())));
        for wrong in ["", "../x", "ef", "bc/"] {
            assert_eq!(found(wrong), None, "{wrong}");
        }
    }
}
