use std::{
    fs::File,
    io::{self, ErrorKind, Read},
    path::{Path, PathBuf},
};

/// The lines that a guest writes to its serial port, wherever the guest goes: each VMM writes a file of its own, and what the
/// guest said at one place is continued at the next in the middle of a line. Put together, the files are what the
/// guest said: a byte that was lost or said twice shows as a broken line.
#[derive(Debug)]
pub(super) struct Serial {
    path: PathBuf,
    /// Opened as soon as it is there.
    file: Option<File>,
    /// What came after the last end of a line.
    partial: Vec<u8>,
}

/// No line of the guest is longer (1024 bytes, `console.rs` of the workload guest). A guest without ends of lines must not
/// fill our memory.
const LONGEST_LINE: usize = 16 << 10;

impl Serial {
    /// Reads the file at `path`, once there is one.
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), file: None, partial: Vec::new() }
    }

    /// Goes on in another file. The one before must have been read to its end.
    pub(super) fn follow(&mut self, path: &Path) {
        self.path = path.to_owned();
        self.file = None;
    }

    /// The lines that were completed since the last time, without their ends.
    pub(super) fn lines(&mut self) -> io::Result<Vec<String>> {
        if self.file.is_none() {
            self.file = match File::open(&self.path) {
                Ok(file) => Some(file),
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
        }
        let mut lines = Vec::new();
        let mut buffer = [0; 8192];
        while let Some(file) = &mut self.file {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            for &byte in &buffer[..count] {
                match byte {
                    b'\n' => lines.push(self.take()),
                    byte if self.partial.len() < LONGEST_LINE => self.partial.push(byte),
                    _ => {}
                }
            }
        }
        Ok(lines)
    }

    fn take(&mut self) -> String {
        let line = String::from_utf8_lossy(&self.partial).trim_end_matches('\r').to_owned();
        self.partial.clear();
        line
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_line_that_was_cut_by_a_move_is_put_together() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        let mut serial = Serial::new(&a);
        assert_eq!(serial.lines().unwrap(), [""; 0], "nothing is there yet");
        fs::write(&a, "one\r\ntw").unwrap();
        assert_eq!(serial.lines().unwrap(), ["one"]);
        serial.follow(&b);
        assert_eq!(serial.lines().unwrap(), [""; 0]);
        fs::write(&b, "o\r\nthree\r\nfo").unwrap();
        assert_eq!(serial.lines().unwrap(), ["two", "three"]);
    }

    #[test]
    fn a_guest_without_ends_of_lines_does_not_fill_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, [vec![b'x'; 10 * LONGEST_LINE], b"\n".to_vec()].concat()).unwrap();
        assert_eq!(Serial::new(&path).lines().unwrap()[0].len(), LONGEST_LINE);
    }
}
