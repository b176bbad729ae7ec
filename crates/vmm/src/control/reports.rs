//! Where the reports of migrations go: into a directory, by a thread of their own. A disk that is slow, full or gone holds up no
//! migration and fails none.

use std::{
    io::{self, Write as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, Sender, channel},
    time::Duration,
};

use parking_lot::Mutex;
use report::Report;
use rustix::fs::{Access, AtFlags, Mode, OFlags, openat, renameat, unlinkat};

use super::ControlError;
use crate::{
    launcher::Launcher,
    machine::{OPENING, Sight},
    seccomp::Role,
};

/// Most files that one process leaves. Whoever can connect to a destination can make attempts fail for ever, and must not fill
/// the disk with that.
const MAX_FILES: u32 = 10_000;

/// What a report is made from, once there is time for that.
type Make = Box<dyn FnOnce() -> Option<Report> + Send>;

/// The way into the directory.
#[derive(Debug, Default)]
pub(super) struct Reports {
    writer: Mutex<Option<Writer>>,
}

#[derive(Debug)]
struct Writer {
    jobs: Sender<Make>,
    /// Disconnected when the thread has ended.
    alive: Receiver<()>,
}

/// The directory, opened while the process may do so.
struct Directory {
    fd: OwnedFd,
    path: PathBuf,
    files: u32,
}

impl Reports {
    /// Reports go into the directory at `path`.
    ///
    /// # Errors
    /// There is none, or nothing can be written there.
    pub(super) fn into_directory(path: &Path, launcher: &Launcher) -> Result<Self, ControlError> {
        let unusable = |source| ControlError::Reports { path: path.to_owned(), source };
        let wanted = path.to_owned();
        let opened = Sight::default().open(OPENING, move |_| open(&wanted));
        let fd = opened.unwrap_or_else(|shut| Err(shut.into())).map_err(unusable)?;
        let directory = Directory { fd, path: path.to_owned(), files: 0 };
        let writer = Writer::start(directory, launcher).map_err(ControlError::Threads)?;
        Ok(Self { writer: Mutex::new(Some(writer)) })
    }

    /// Has a report made and written. Does not wait for that.
    pub(super) fn store(&self, make: impl FnOnce() -> Option<Report> + Send + 'static) {
        if let Some(writer) = &*self.writer.lock() {
            // The thread ends only when it is told to, or after a panic, which is in the log.
            let _ = writer.jobs.send(Box::new(make));
        }
    }

    /// Waits until all are written, but no longer than `timeout`.
    pub(super) fn finish(&self, timeout: Duration) {
        if let Some(Writer { jobs, alive }) = self.writer.lock().take() {
            drop(jobs);
            // It ends with an error in any case: nothing is ever sent.
            let _ = alive.recv_timeout(timeout);
        }
    }
}

impl Writer {
    fn start(mut directory: Directory, launcher: &Launcher) -> io::Result<Self> {
        let (jobs, inbox) = channel::<Make>();
        let (living, alive) = channel();
        launcher.spawn(Role::Report, "reports", move || {
            let _living: Sender<()> = living;
            for make in inbox {
                if let Some(report) = make() {
                    directory.take(&report);
                }
            }
        })?;
        Ok(Self { jobs, alive })
    }
}

impl Directory {
    fn take(&mut self, report: &Report) {
        if self.files >= MAX_FILES {
            return;
        }
        let _about = report.session.as_deref().map(|id| tracing::error_span!("migration", id).entered());
        let name = file_name(report);
        match self.write(&name, report) {
            Ok(()) => tracing::info!("The report is in {}", self.path.join(&name).display()),
            Err(error) => tracing::warn!(
                "The report of a migration cannot be written to {}: {error}",
                self.path.join(&name).display()
            ),
        }
        self.files += 1;
        if self.files == MAX_FILES {
            tracing::warn!("This process has left {MAX_FILES} reports: it writes no more");
        }
    }

    /// There is the whole file under its name, or none.
    fn write(&self, name: &str, report: &Report) -> io::Result<()> {
        let temporary = format!(".{name}.tmp");
        let written = self.write_to(&temporary, report).and_then(|()| {
            renameat(&self.fd, &temporary, &self.fd, name)?;
            Ok(())
        });
        if written.is_err() {
            // It may not even be there.
            let _ = unlinkat(&self.fd, &temporary, AtFlags::empty());
        }
        written
    }

    fn write_to(&self, name: &str, report: &Report) -> io::Result<()> {
        let json = report.to_json()?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&self.fd, name, flags, Mode::from_raw_mode(0o640))?;
        let mut file = std::fs::File::from(fd);
        file.write_all(json.as_bytes())?;
        file.sync_data()
    }
}

fn open(directory: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(directory, flags, Mode::empty())?;
    rustix::fs::accessat(&fd, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::empty())?;
    Ok(fd)
}

/// Sorts by time; the two sides of one migration are told apart by their ends.
fn file_name(report: &Report) -> String {
    let moment: String = report.began.chars().filter(char::is_ascii_alphanumeric).collect();
    let session = report.session.as_deref().unwrap_or("unknown");
    format!("{moment}-{session}-{}.json", report.side.name())
}
