use std::{
    fs::File,
    io::{self, Write as _},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

/// Bytes held for storage that does not take them now. Past this, output is lost.
const BACKLOG_BYTES: usize = 1 << 20;
/// How long the first byte waits for others: a guest prints one by one, and wakes nobody for each.
const GATHERING: Duration = Duration::from_millis(2);
/// How long the end waits for storage that does not take what is left.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What confines the thread that calls it to what it needs.
pub type Confine = fn() -> io::Result<()>;

/// A thread that writes to a file, for a vCPU that must not wait for its storage.
#[derive(Debug)]
pub(super) struct Writer(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// There is something to write, or nothing more comes.
    news: Condvar,
    /// All is written.
    done: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    /// Something is being written.
    busy: bool,
    /// Nothing more comes.
    ending: bool,
    /// Some of it was lost since the last that was not, and that was said.
    loses: bool,
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(file: File, confine: Confine) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let own = shared.clone();
        let write = move || match confine() {
            Ok(()) => own.write_to(file),
            Err(error) => tracing::error!("Serial output is not written: {error}"),
        };
        thread::Builder::new().name("serial".into()).spawn(write)?;
        Ok(Self(shared))
    }

    /// Has this written. What there is no room for is lost.
    pub(super) fn write(&self, bytes: &[u8]) {
        let mut state = self.0.state.lock();
        let was_empty = state.waiting.is_empty();
        let room = BACKLOG_BYTES - state.waiting.len();
        state.waiting.extend(&bytes[..bytes.len().min(room)]);
        if bytes.len() > room {
            state.lose("its storage does not take it in time");
        }
        drop(state);
        if was_empty {
            self.0.news.notify_one();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let deadline = Instant::now() + LAST_WORDS;
        let mut state = self.0.state.lock();
        state.ending = true;
        self.0.news.notify_one();
        while state.busy || !state.waiting.is_empty() {
            if self.0.done.wait_until(&mut state, deadline).timed_out() {
                return;
            }
        }
    }
}

impl Shared {
    /// The life of the thread.
    fn write_to(&self, mut file: File) {
        let mut state = self.state.lock();
        loop {
            while state.waiting.is_empty() {
                if state.ending {
                    return;
                }
                self.news.wait(&mut state);
            }
            if !state.ending {
                self.news.wait_for(&mut state, GATHERING);
            }
            let bytes = std::mem::take(&mut state.waiting);
            state.busy = true;
            drop(state);
            let written = file.write_all(&bytes);
            state = self.state.lock();
            state.busy = false;
            match written {
                Ok(()) => state.loses = false,
                Err(error) => state.lose(&error.to_string()),
            }
            if state.waiting.is_empty() {
                self.done.notify_all();
            }
        }
    }
}

impl State {
    fn lose(&mut self, why: &str) {
        if !std::mem::replace(&mut self.loses, true) {
            tracing::warn!("Serial output is being lost: {why}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn storage_that_takes_nothing_keeps_nobody_waiting_and_gets_what_there_was_room_for() {
        // A pipe that nobody reads takes nothing once it is full, as storage that hangs.
        let (mut reader, pipe) = std::io::pipe().unwrap();
        let writer = Writer::start(File::from(std::os::fd::OwnedFd::from(pipe)), || Ok(())).unwrap();
        let line = b"what a guest prints\n";
        let lines = 3 * BACKLOG_BYTES / line.len();
        (0..lines).for_each(|_| writer.write(line));
        drop(writer);
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        assert!((BACKLOG_BYTES..lines * line.len()).contains(&all.len()), "{}", all.len());
        assert!(line.iter().cycle().zip(&all).all(|(sent, came)| sent == came));
    }

    #[test]
    fn all_is_written_before_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console");
        let writer = Writer::start(File::create(&path).unwrap(), || Ok(())).unwrap();
        writer.write(b"first ");
        writer.write(b"second");
        drop(writer);
        assert_eq!(std::fs::read(path).unwrap(), b"first second");
    }
}
