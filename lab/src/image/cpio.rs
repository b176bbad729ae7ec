//! Archives as the kernel unpacks them (Linux, Documentation/driver-api/early-userspace/buffer-format.rst, "newc").
//! Written here, since a program for it would need root to put devices in.

use std::collections::BTreeSet;

/// Kinds of files, in their mode (`man 7 inode`).
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const CHARACTERS: u32 = 0o020_000;

/// An archive that grows.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    folders: BTreeSet<String>,
}

impl Archive {
    /// Adds a file; folders on the way come by themselves.
    pub(crate) fn file(&mut self, path: &str, mode: u32, contents: &[u8]) {
        self.folders_above(path);
        self.entry(path, FILE | mode, (0, 0), contents);
    }

    /// Adds a symbolic link.
    pub(crate) fn link(&mut self, path: &str, to: &str) {
        self.folders_above(path);
        self.entry(path, LINK | 0o777, (0, 0), to.as_bytes());
    }

    /// Adds a character device.
    pub(crate) fn device(&mut self, path: &str, number: (u32, u32)) {
        self.folders_above(path);
        self.entry(path, CHARACTERS | 0o600, number, &[]);
    }

    /// Adds an empty folder.
    pub(crate) fn folder(&mut self, path: &str) {
        self.folders_above(&format!("{path}/"));
    }

    /// The whole archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn folders_above(&mut self, path: &str) {
        for (at, _) in path.match_indices('/') {
            let folder = &path[..at];
            if self.folders.insert(folder.to_owned()) {
                self.entry(folder, FOLDER | 0o755, (0, 0), &[]);
            }
        }
    }

    fn entry(&mut self, name: &str, mode: u32, (major, minor): (u32, u32), contents: &[u8]) {
        self.entries += 1;
        let size = contents.len();
        let (inode, name_size) = (self.entries, name.len() + 1);
        let header = format!(
            "070701{inode:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{size:08x}{:08x}{:08x}{major:08x}{minor:08x}{name_size:08x}{:08x}",
            0, 0, 1, 0, 0, 0, 0
        );
        self.bytes.extend(header.as_bytes());
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(contents);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    fn cpio_unpacks_an_archive() {
        if crate::programs::find("cpio").is_none() {
            eprintln!("SKIPPED cpio_unpacks_an_archive: there is no cpio");
            return;
        }
        let mut archive = Archive::default();
        archive.file("a/b/text", 0o640, b"hello");
        archive.link("a/link", "b/text");
        archive.folder("empty");
        let place = tempfile::tempdir().unwrap();
        let mut cpio = Command::new("cpio")
            .args(["-i", "-d", "--quiet"])
            .current_dir(place.path())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        cpio.stdin.take().unwrap().write_all(&archive.finish()).unwrap();
        assert!(cpio.wait().unwrap().success());
        assert_eq!(std::fs::read(place.path().join("a/link")).unwrap(), b"hello");
        assert!(place.path().join("empty").is_dir());
    }
}
