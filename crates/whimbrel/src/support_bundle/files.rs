//! Files of a fleet's directory that tell what happened.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

/// How much of a file is taken, from its end, in bytes.
const TAIL: u64 = 1 << 20;
/// How many files are taken at most, the latest first.
const FILES: usize = 1000;
/// How deep is looked: directory, node, `vmms`, machine, `reports`.
const DEPTH: usize = 6;

/// The files that are taken from a directory. Keys, tokens, the store and what guests print are not.
pub(super) fn find(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    walk(directory, DEPTH, &mut found);
    found.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).and_then(|data| data.modified()).ok()));
    found.truncate(FILES);
    found
}

/// What is taken of a file: its end, or why it cannot be read.
pub(super) fn read(path: &Path) -> String {
    tail(path).unwrap_or_else(|error| format!("it cannot be read: {error}"))
}

fn walk(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        // Links are not followed: what is meant is in the directory.
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth > 0 => walk(&path, depth - 1, found),
            Ok(kind) if kind.is_file() && is_wanted(&path) => found.push(path),
            _ => {}
        }
    }
}

fn is_wanted(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let is_in_reports = path.parent().is_some_and(|folder| folder.ends_with("reports"));
    matches!(name, "whimbrel.log" | "vmm.log" | "vm.yaml" | "end")
        || (is_in_reports && name.ends_with(".json"))
}

fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
