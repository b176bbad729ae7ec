//! Writing the machine to a core file (`dump-guest-memory`), also one that lacks pages whose source is gone: what is here of it is
//! all that is left.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use monitor::{
    CommandError,
    types::{DumpInfo, DumpRequest, DumpStatus, RunState},
};
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{Control, one_line, why_it_may_not_run};
use crate::{
    machine::{CoreFile, Sight},
    panics,
    seccomp::Role,
};

/// How long a command waits for storage that takes nothing.
const PATIENCE: Duration = Duration::from_secs(30);

/// The dump under way, or the last one.
#[derive(Debug, Default)]
pub(super) struct Dump {
    state: Mutex<State>,
    ended: Condvar,
    /// Of the file: one that hangs gets no second thread.
    sight: Sight,
}

#[derive(Debug, Default)]
struct State {
    status: DumpStatus,
    total: u64,
    completed: Arc<AtomicU64>,
    error: Option<String>,
}

impl Control {
    /// Stops the machine if it runs, writes it, and lets it run again.
    ///
    /// # Errors
    /// It cannot be stopped, it is about to move, another dump is under way, or the file cannot be written; with
    /// [`DumpRequest::detach`] the last is told by the event alone.
    pub(super) fn dump(self: &Arc<Self>, request: &DumpRequest) -> Result<(), CommandError> {
        drop(self.no_migration()?);
        self.dump.is_over()?;
        let path = request.path.clone();
        // Before the machine stands still: where storage hangs, it would for as long.
        let asked = self.dump.sight.ask(Role::Dump, &self.launcher, "dump-file", {
            let path = path.clone();
            move || create(&path)
        });
        match asked.unwrap_or_else(|why| Err(io::Error::other(why))) {
            Ok(file) => self.dump_into(file, path)?,
            Err(error) => self.end_dump(false, Err(unwritten(&path, &error))),
        }
        if request.detach { Ok(()) } else { self.dump.wait() }
    }

    fn dump_into(self: &Arc<Self>, file: File, path: PathBuf) -> Result<(), CommandError> {
        // No migration begins before the dump is noted.
        let still = self.no_migration().and_then(|_departing| self.stand_still());
        let (core, ran) = still.inspect_err(|_| {
            let empty = path.clone();
            // Nothing is in it, it may be gone by itself, and where there is no thread it stays.
            let _ = self.launcher.spawn(Role::Dump, "dump-file", move || drop(fs::remove_file(empty)));
        })?;
        let control = self.clone();
        let write = move || control.write_dump(&core, file, &path, ran);
        if let Err(error) = self.launcher.spawn(Role::Dump, "dump", write) {
            self.end_dump(ran, Err(error));
        }
        Ok(())
    }

    /// No migration is under way, nor begins while this is held.
    fn no_migration(&self) -> Result<MutexGuard<'_, ()>, CommandError> {
        let departing = self.departing.try_lock();
        let under_way = self.departure.lock().as_ref().is_some_and(|departure| {
            let status = departure.handle.snapshot().status;
            // Of a machine that runs at the destination, what it was is here, as long as pages of it are.
            status.is_under_way() && !status.is_postcopy()
        });
        let moves = || CommandError::generic("A migration is under way: dump the machine when it is over");
        departing.filter(|_| !under_way).ok_or_else(moves)
    }

    /// Stops the machine, and keeps it so. Returns what is to be written, and whether it ran.
    fn stand_still(&self) -> Result<(CoreFile, bool), CommandError> {
        let failed = |error: &(dyn std::error::Error + 'static)| CommandError::generic(one_line(error));
        let turn = self.turn.lock();
        self.dump.is_over()?;
        let state = self.state();
        if matches!(state, RunState::Inmigrate | RunState::FinishMigrate) {
            return Err(CommandError::generic(why_it_may_not_run(state)));
        }
        let machine = self.machine()?;
        let ran = state == RunState::Running;
        if ran {
            self.halt(&turn, &machine, RunState::Paused).map_err(|error| failed(&error))?;
        }
        let core = machine.core().inspect_err(|_| {
            if ran {
                self.set_running(&turn, &machine);
            }
        });
        let core = core.map_err(|error| failed(&error))?;
        self.dump.begin(core.bytes());
        Ok((core, ran))
    }

    fn write_dump(&self, core: &CoreFile, mut file: File, path: &Path, ran: bool) {
        let completed = self.dump.state.lock().completed.clone();
        let written = panics::catch(|| {
            core.write(&mut file, &completed).inspect_err(|_| {
                // A part of a core is of no use. It may be gone by itself.
                let _ = fs::remove_file(path);
            })
        });
        let written = written.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        self.end_dump(ran, written.map_err(|error| unwritten(path, &error)));
    }

    /// The dump is over. The machine goes on if it `ran`.
    fn end_dump(&self, ran: bool, outcome: io::Result<()>) {
        match &outcome {
            Ok(()) => tracing::info!("The machine is dumped"),
            Err(error) => tracing::error!("The machine is not dumped: {error}"),
        }
        let error = outcome.err().map(|error| error.to_string());
        let info = self.dump.end(error.clone());
        if ran && let Err(error) = self.resume() {
            tracing::error!("The machine stays stopped after its dump: {error}");
        }
        self.events.dump_completed(info, error.as_deref());
        self.dump.ended.notify_all();
    }
}

impl Dump {
    pub(super) fn info(&self) -> DumpInfo {
        self.state.lock().info()
    }

    /// # Errors
    /// A dump is under way: the machine must stay as it is.
    pub(super) fn is_over(&self) -> Result<(), CommandError> {
        match self.state.lock().status {
            DumpStatus::Active => Err(CommandError::generic(
                "There is a dump in process, please wait: query-dump says how far it is",
            )),
            _ => Ok(()),
        }
    }

    fn begin(&self, total: u64) {
        *self.state.lock() = State { status: DumpStatus::Active, total, ..State::default() };
    }

    fn end(&self, error: Option<String>) -> DumpInfo {
        let mut state = self.state.lock();
        state.status = if error.is_none() { DumpStatus::Completed } else { DumpStatus::Failed };
        state.error = error;
        state.info()
    }

    /// Waits for the end, as long as there is progress.
    fn wait(&self) -> Result<(), CommandError> {
        let mut state = self.state.lock();
        while state.status == DumpStatus::Active {
            let before = state.completed.load(Ordering::Relaxed);
            let stuck = self.ended.wait_for(&mut state, PATIENCE).timed_out();
            if stuck
                && state.status == DumpStatus::Active
                && state.completed.load(Ordering::Relaxed) == before
            {
                return Err(CommandError::generic(format!(
                    "The storage has taken nothing for {} s. The dump goes on, query-dump says how far it is",
                    PATIENCE.as_secs()
                )));
            }
        }
        state.error.as_ref().map_or(Ok(()), |error| Err(CommandError::generic(error.clone())))
    }
}

impl State {
    fn info(&self) -> DumpInfo {
        DumpInfo { status: self.status, completed: self.completed.load(Ordering::Relaxed), total: self.total }
    }
}

fn unwritten(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("'{}' cannot be written: {error}", path.display()))
}

/// A file that was not there, which its owner alone may read: it has all that the guest had in memory.
fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}
