//! Looking at files in storage that may not answer, such as a file server that is gone: nobody waits for that longer than a few
//! seconds.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{launcher::Launcher, seccomp::Role};

/// How long anybody waits for storage that does not answer. A source waits for the destination's answer for twice as long.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// How long nothing may come of opening a file, and of reading it.
pub(crate) const OPENING: Duration = Duration::from_secs(10);

/// Something in storage. It is looked at by a thread of its own, and a look that hangs is not joined by a second one. A handle:
/// clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sight {
    busy: Arc<AtomicBool>,
}

/// Why nothing was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blind {
    /// The last look has not come back yet.
    StillLooking,
    /// This one does not come back in time.
    NoAnswer,
    /// There is no thread to look with.
    NoThread,
}

/// A look that has not come back yet.
pub(super) struct Look<T>(Receiver<T>);

/// A file that does not open, as its storage does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shut(Blind, Duration);

/// Something still comes of what takes long.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pulse(Arc<AtomicU64>);

impl Sight {
    /// Begins to look, on a thread called `name`.
    pub(super) fn look<T: Send + 'static>(
        &self,
        launcher: &Launcher,
        name: &str,
        look: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Look<T>, Blind> {
        self.look_as(Role::Look, launcher, name, look)
    }

    /// Has something done that waits for something outside of this process, on a thread called `name` that may do what `role` may; waits
    /// for it as long as for a look, and twice as long where a name server is asked too.
    ///
    /// # Errors
    /// It takes longer, or what was to be done the last time does still; as the end of a sentence about it.
    pub(crate) fn ask<T: Send + 'static>(
        &self,
        role: Role,
        launcher: &Launcher,
        name: &str,
        ask: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        let patience = if role == Role::Listen { 2 * PATIENCE } else { PATIENCE };
        let asked = self.look_as(role, launcher, name, ask);
        let answer = asked.and_then(|look| look.until(Instant::now() + patience));
        answer.map_err(|blind| match blind {
            Blind::StillLooking => "there is no answer yet to what was asked the last time".into(),
            Blind::NoAnswer => format!("there is no answer within {} s", patience.as_secs()),
            Blind::NoThread => "there is no thread to ask with".into(),
        })
    }

    /// Has a file opened on a thread that may do what whoever asks may, and waits for that: so long that nothing comes of it for
    /// `patience`.
    ///
    /// # Errors
    /// Nothing has, or what was to be done the last time is not over.
    pub(crate) fn open<T: Send + 'static>(
        &self,
        patience: Duration,
        open: impl FnOnce(&Pulse) -> T + Send + 'static,
    ) -> Result<T, Shut> {
        let shut = |blind| Shut(blind, patience);
        let busy = Busy::begin(&self.busy).ok_or(shut(Blind::StillLooking))?;
        let (pulse, (answer, answers)) = (Pulse::default(), channel());
        let beats = pulse.clone();
        let body = move || {
            let opened = open(&beats);
            drop(busy);
            // Nobody waits for it any more only when it took too long.
            let _ = answer.send(opened);
        };
        thread::Builder::new().name("open".into()).spawn(body).map_err(|_| shut(Blind::NoThread))?;
        loop {
            let before = pulse.count();
            match answers.recv_timeout(patience) {
                Ok(opened) => return Ok(opened),
                Err(RecvTimeoutError::Timeout) if pulse.count() != before => {}
                Err(_) => return Err(shut(Blind::NoAnswer)),
            }
        }
    }

    fn look_as<T: Send + 'static>(
        &self,
        role: Role,
        launcher: &Launcher,
        name: &str,
        look: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Look<T>, Blind> {
        let busy = Busy::begin(&self.busy).ok_or(Blind::StillLooking)?;
        let (answer, answers) = channel();
        let body = move || {
            let found = look();
            drop(busy);
            // Nobody waits for it any more only when it took too long.
            let _ = answer.send(found);
        };
        launcher.spawn(role, name, body).map_err(|_| Blind::NoThread)?;
        Ok(Look(answers))
    }
}

impl<T> Look<T> {
    /// What was seen, if that comes before `deadline`.
    pub(super) fn until(self, deadline: Instant) -> Result<T, Blind> {
        let left = deadline.saturating_duration_since(Instant::now());
        self.0.recv_timeout(left).map_err(|_| Blind::NoAnswer)
    }
}

impl Blind {
    /// As the end of a sentence about what was to be seen.
    pub(super) fn why(self) -> &'static str {
        match self {
            Self::StillLooking => "its storage has not answered since it was looked at before",
            Self::NoAnswer => "its storage does not answer in time",
            Self::NoThread => "there is no thread to look at it with",
        }
    }
}

impl Shut {
    /// What is the matter, and what to do.
    pub(crate) fn why(self) -> String {
        let since = match self {
            Self(Blind::NoThread, _) => {
                return "there is no thread to open it with, raise the limit of processes (ulimit -u)".into();
            }
            Self(Blind::StillLooking, _) => "since it was asked before".into(),
            Self(Blind::NoAnswer, patience) => format!("within {patience:?}"),
        };
        format!(
            "its storage has not answered {since}. See whether its file system is frozen, or its file server gone"
        )
    }
}

impl From<Shut> for io::Error {
    fn from(shut: Shut) -> Self {
        Self::new(io::ErrorKind::TimedOut, shut.why())
    }
}

impl Pulse {
    /// Something has come of it.
    pub(crate) fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// It is being looked at.
struct Busy(Arc<AtomicBool>);

impl Busy {
    fn begin(busy: &Arc<AtomicBool>) -> Option<Self> {
        (!busy.swap(true, Ordering::SeqCst)).then(|| Self(busy.clone()))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_does_not_open_is_waited_for_as_long_as_something_comes_of_it() {
        const SHORT: Duration = Duration::from_millis(50);
        let sight = Sight::default();
        let slow = |pulse: &Pulse| {
            for _ in 0..6 {
                pulse.beat();
                thread::sleep(SHORT / 2);
            }
            7
        };
        assert_eq!(sight.open(SHORT, slow), Ok(7));
        let (go, goes) = channel::<()>();
        let hangs = sight.open(SHORT, move |_| goes.recv()).unwrap_err();
        assert!(hangs.why().contains("has not answered within 50ms"), "{}", hangs.why());
        // No second thread hangs there.
        let again = sight.open(SHORT, |_| ()).unwrap_err();
        assert!(again.why().contains("since it was asked before"), "{}", again.why());
        drop(go);
        while sight.open(OPENING, |_| ()).is_err() {
            thread::yield_now();
        }
    }

    #[test]
    fn a_look_that_hangs_is_waited_for_until_the_deadline_and_is_not_joined_by_another() {
        let (launcher, sight) = (Launcher::start().unwrap(), Sight::default());
        let (go, goes) = channel::<()>();
        let hangs = sight.look(&launcher, "hangs", move || goes.recv()).unwrap();
        assert_eq!(hangs.until(Instant::now()).err(), Some(Blind::NoAnswer));
        let again = || sight.clone().look(&launcher, "again", || 7);
        assert_eq!(again().err(), Some(Blind::StillLooking));
        go.send(()).unwrap();
        // The thread has the last word.
        let seen = loop {
            if let Ok(look) = again() {
                break look.until(Instant::now() + PATIENCE);
            }
            std::thread::yield_now();
        };
        assert_eq!(seen, Ok(7));
    }
}
