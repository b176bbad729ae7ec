//! Writing the machine to a core file (`dump-guest-memory`), also one that lacks pages whose source is gone: what is here of it is
//! all that is left.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
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
use parking_lot::{Condvar, Mutex};

use super::{Control, one_line, why_it_may_not_run};
use crate::{machine::CoreFile, panics, seccomp::Role};

/// How long a command waits for storage that takes nothing.
const PATIENCE: Duration = Duration::from_secs(30);

/// The dump under way, or the last one.
#[derive(Debug, Default)]
pub(super) struct Dump {
    state: Mutex<State>,
    ended: Condvar,
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
        // No migration begins before the dump is noted.
        let departing = self.departing.try_lock();
        let moves = || CommandError::generic("A migration is under way: dump the machine when it is over");
        let under_way = self.departure.lock().as_ref().is_some_and(|departure| {
            let status = departure.handle.snapshot().status;
            // Of a machine that runs at the destination, what it was is here, as long as pages of it are.
            status.is_under_way() && !status.is_postcopy()
        });
        if departing.is_none() || under_way {
            return Err(moves());
        }
        let (core, ran) = self.stand_still()?;
        drop(departing);
        let (control, path) = (self.clone(), request.path.clone());
        let write = move || control.write_dump(&core, &path, ran);
        if let Err(error) = self.launcher.spawn(Role::Dump, "dump", write) {
            self.end_dump(ran, Err(error));
        }
        if request.detach { Ok(()) } else { self.dump.wait() }
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

    fn write_dump(&self, core: &CoreFile, path: &Path, ran: bool) {
        let completed = self.dump.state.lock().completed.clone();
        let written = panics::catch(|| {
            let mut file = create(path)?;
            core.write(&mut file, &completed).inspect_err(|_| {
                // A part of a core is of no use. It may be gone by itself.
                let _ = fs::remove_file(path);
            })
        });
        let written = written.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        let written = written.map_err(|error| {
            io::Error::new(error.kind(), format!("'{}' cannot be written: {error}", path.display()))
        });
        self.end_dump(ran, written);
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

/// A file that was not there, which its owner alone may read: it has all that the guest had in memory.
fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}
