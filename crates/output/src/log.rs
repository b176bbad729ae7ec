use std::{
    io,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

/// Bytes that a pipe which can be written to takes without waiting (POSIX, PIPE_BUF; 4096 on Linux).
const PIECE: usize = 4096;

/// How long a line waits for a reader that is merely slow. A machine may be stopped meanwhile.
const PATIENCE: Duration = Duration::from_millis(10);

/// The log, on standard error. Writing to it never fails, and waits for 10 ms at most: a line for which there is no room is lost
/// as a whole, as long as it is no longer than 4 KiB, and the next one that can be written says how many were.
///
/// What is written with one call counts as one line.
#[derive(Clone, Copy, Debug, Default)]
pub struct Log;

/// Lines lost since one was written.
static LOST: Mutex<u64> = Mutex::new(0);

impl io::Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // Nothing here leaves the number half changed.
        let mut lost = LOST.lock().unwrap_or_else(PoisonError::into_inner);
        // Who had no room for the last line is not waited for again.
        let patience = if *lost == 0 { PATIENCE } else { Duration::ZERO };
        let written = if *lost == 0 {
            write(line, patience)
        } else {
            let gap = format!("({lost} lines of the log were lost here: standard error did not take them)\n");
            write(&[gap.as_bytes(), line].concat(), patience)
        };
        *lost = if written.is_ok() { 0 } else { lost.saturating_add(1) };
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes all of it, unless that fails or there is no room for so long.
fn write(mut line: &[u8], patience: Duration) -> Result<(), Errno> {
    let stderr = io::stderr();
    let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(patience.subsec_nanos()) };
    while !line.is_empty() {
        let mut room = [PollFd::new(&stderr, PollFlags::OUT)];
        match poll(&mut room, Some(&timeout)) {
            Ok(0) => return Err(Errno::AGAIN),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error),
        }
        match rustix::io::write(&stderr, &line[..line.len().min(PIECE)]) {
            Ok(written) => line = &line[written..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
