//! The two processes of a migration, to be killed and frozen.

use std::{
    io,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use crate::Side;

/// The processes of both sides, as far as they may be touched. By descriptor, not by number: a number can mean another process
/// by the time that it is used.
#[derive(Debug, Default)]
pub struct Processes {
    source: Option<Process>,
    destination: Option<Process>,
    frozen: Arc<Frozen>,
}

#[derive(Debug)]
struct Process {
    id: Pid,
    descriptor: Arc<OwnedFd>,
}

/// Who is to be thawed when all is over.
#[derive(Debug, Default)]
struct Frozen {
    over: Mutex<bool>,
    changed: Condvar,
}

/// How long a signal may take to have its effect: it does at once, unless the host is very busy.
const EFFECT: Duration = Duration::from_secs(5);

impl Processes {
    /// The processes of these numbers, which must be running.
    ///
    /// # Errors
    /// There is no such process.
    pub fn new(source: Option<u32>, destination: Option<u32>) -> io::Result<Self> {
        let open = |id: Option<u32>| id.map(Process::open).transpose();
        Ok(Self { source: open(source)?, destination: open(destination)?, frozen: Arc::default() })
    }

    pub(crate) fn kill(&self, side: Side) {
        let Some(process) = self.of(side) else { return };
        // Fails only if it has ended.
        let _ = pidfd_send_signal(&process.descriptor, Signal::KILL);
        let timeout = Timespec { tv_sec: EFFECT.as_secs() as i64, tv_nsec: 0 };
        // Readable when it has ended (pidfd_open(2)).
        let _ = poll(&mut [PollFd::new(&process.descriptor, PollFlags::IN)], Some(&timeout));
    }

    pub(crate) fn freeze(&self, side: Side, time: Duration) {
        let Some(process) = self.of(side) else { return };
        if pidfd_send_signal(&process.descriptor, Signal::STOP).is_err() {
            return;
        }
        process.wait_until_stopped();
        let (descriptor, frozen) = (process.descriptor.clone(), self.frozen.clone());
        let thaw = move || {
            let deadline = Instant::now() + time;
            let mut over = frozen.over.lock();
            while !*over && !frozen.changed.wait_until(&mut over, deadline).timed_out() {}
            drop(over);
            let _ = pidfd_send_signal(&descriptor, Signal::CONT);
        };
        if std::thread::Builder::new().name("thaw".into()).spawn(thaw).is_err() {
            let _ = pidfd_send_signal(&process.descriptor, Signal::CONT);
        }
    }

    fn of(&self, side: Side) -> Option<&Process> {
        match side {
            Side::Source => self.source.as_ref(),
            Side::Destination => self.destination.as_ref(),
        }
    }
}

impl Process {
    fn open(id: u32) -> io::Result<Self> {
        let id = i32::try_from(id).ok().and_then(Pid::from_raw);
        let id = id.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(Self { id, descriptor: Arc::new(pidfd_open(id, PidfdFlags::empty())?) })
    }

    /// The signal is on its way when the system call returns; its threads stop when they get to it.
    fn wait_until_stopped(&self) {
        let path = format!("/proc/{}/stat", self.id.as_raw_nonzero());
        let deadline = Instant::now() + EFFECT;
        while Instant::now() < deadline {
            let Ok(stat) = std::fs::read_to_string(&path) else { return };
            // The state comes behind the name, which may contain anything (proc_pid_stat(5)).
            let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
            if matches!(state, Some('T' | 't' | 'Z' | 'X')) {
                return;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        *self.frozen.over.lock() = true;
        self.frozen.changed.notify_all();
    }
}
