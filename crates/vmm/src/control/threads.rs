use std::{io, mem::MaybeUninit, os::fd::OwnedFd};

use monitor::types::ThreadInfo;
use rustix::{
    fs::{Mode, OFlags, RawDir, open, openat},
    io::{Errno, read},
};

/// Longest name of a thread, with the line feed after it (Linux, TASK_COMM_LEN).
const NAME_BYTES: usize = 16;

/// All threads that this process has now, by their ids.
///
/// # Errors
/// There is no /proc.
pub(super) fn all() -> io::Result<Vec<ThreadInfo>> {
    let tasks = open("/proc/self/task", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut entries = RawDir::new(&tasks, &mut buffer);
    let mut threads = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let Some(thread_id) = entry.file_name().to_str().ok().and_then(|id| id.parse().ok()) else {
            continue;
        };
        match name(&tasks, thread_id) {
            Ok(name) => threads.push(ThreadInfo { name, thread_id }),
            // It has ended meanwhile.
            Err(Errno::NOENT | Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    threads.sort_by_key(|thread| thread.thread_id);
    Ok(threads)
}

/// The name of one thread, as `ps -T` shows it.
fn name(tasks: &OwnedFd, thread_id: u32) -> Result<String, Errno> {
    let file = openat(tasks, format!("{thread_id}/comm"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = [0; NAME_BYTES];
    let length = read(&file, &mut text)?;
    Ok(String::from_utf8_lossy(&text[..length]).trim_end_matches('\n').to_owned())
}
