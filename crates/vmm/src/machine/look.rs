//! Looking at files in storage that may not answer, such as a file server that is gone: nobody waits for that longer than a few
//! seconds.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, channel},
    },
    time::{Duration, Instant},
};

use crate::{launcher::Launcher, seccomp::Role};

/// How long anybody waits for storage that does not answer. A source waits for the destination's answer for twice as long.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

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
