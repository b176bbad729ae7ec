use std::{
    io,
    sync::{
        OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};

/// Bytes of lines that wait to be written. A reader that is merely slow misses nothing until it is this far behind.
const MAX_BYTES: usize = 256 << 10;

/// The log, on standard error. Once it is [started](Log::start), writing to it never fails and never waits: a thread of its own
/// passes lines on. Where the reader does not take them for so long that 256 KiB wait, lines are lost as a whole, and the next one
/// that there is room for is preceded by how many were. Before, it writes by itself, and waits for the reader.
///
/// What is written with one call counts as one line.
#[derive(Clone, Copy, Debug, Default)]
pub struct Log;

/// The way to the thread. There is one log in a process, as there is one standard error.
static QUEUE: OnceLock<Queue> = OnceLock::new();

struct Queue {
    jobs: Sender<Job>,
    /// Of lines that were not written yet.
    bytes: AtomicUsize,
    /// Lines for which there was no room since there was.
    lost: AtomicU64,
}

enum Job {
    Line {
        /// Lines that were lost before it.
        lost: u64,
        line: Vec<u8>,
    },
    /// Whoever holds the other end wants to know that it is this one's turn.
    Reached(Sender<()>),
}

impl Log {
    /// Starts the thread that writes, which calls `enter` first. Does nothing if there is one.
    ///
    /// # Errors
    /// The thread cannot be started, or does not succeed in `enter`.
    pub fn start(enter: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
        let (jobs, inbox) = channel();
        let (entered, has_entered) = channel();
        let write = move || {
            let result = enter();
            let go = result.is_ok();
            // The other end waits for this.
            let _ = entered.send(result);
            if go {
                write_all(&inbox);
            }
        };
        thread::Builder::new().name("log".into()).spawn(write)?;
        has_entered.recv().unwrap_or_else(|_| Err(io::Error::other("the thread of the log has ended")))?;
        // A second one ends at once, as nothing can come to it.
        QUEUE.get_or_init(|| Queue { jobs, bytes: AtomicUsize::new(0), lost: AtomicU64::new(0) });
        Ok(())
    }

    /// Waits until all that was logged so far is written, but no longer than `patience`.
    pub fn finish(patience: Duration) {
        let (reached, is_reached) = channel();
        if QUEUE.get().is_some_and(|queue| queue.jobs.send(Job::Reached(reached)).is_ok()) {
            // What is not written by then is lost.
            let _ = is_reached.recv_timeout(patience);
        }
    }
}

impl io::Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match QUEUE.get() {
            Some(queue) => queue.put(line),
            // As the crate's documentation says.
            None => drop(write(line)),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Queue {
    fn put(&self, line: &[u8]) {
        let waiting = self.bytes.fetch_add(line.len(), Ordering::SeqCst);
        if waiting.saturating_add(line.len()) > MAX_BYTES {
            self.take_off(line.len());
            self.lost.fetch_add(1, Ordering::SeqCst);
            return;
        }
        let lost = self.lost.swap(0, Ordering::SeqCst);
        // The thread ends only with the process.
        let _ = self.jobs.send(Job::Line { lost, line: line.to_vec() });
    }

    fn take_off(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::SeqCst);
    }
}

/// Writes what comes, one after the other, and waits for the reader as long as that takes.
fn write_all(inbox: &Receiver<Job>) {
    let mut lost = 0;
    for job in inbox {
        match job {
            Job::Line { lost: before, line } => {
                lost += before;
                let gap =
                    format!("({lost} lines of the log were lost here: standard error did not take them)\n");
                let written = if lost == 0 { write(&line) } else { write(&[gap.as_bytes(), &line].concat()) };
                lost = if written.is_ok() { 0 } else { lost + 1 };
                if let Some(queue) = QUEUE.get() {
                    queue.take_off(line.len());
                }
            }
            // If it does not wait any more, it does not matter.
            Job::Reached(reached) => drop(reached.send(())),
        }
    }
}

/// Writes all of it. Standard error may be shared with processes that do not want to wait for its reader.
fn write(mut line: &[u8]) -> Result<(), Errno> {
    let stderr = io::stderr();
    while !line.is_empty() {
        match rustix::io::write(&stderr, line) {
            Ok(written) => line = &line[written..],
            Err(Errno::AGAIN) => {
                // Whatever comes of it, the next write tells.
                let _ = poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], None);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
