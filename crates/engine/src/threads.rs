//! The threads of a migration: who starts them, and what becomes of one that panics.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::{self, JoinHandle},
};

use tracing::Span;
use wire::SessionId;

/// What every line of the log has that is about a migration: its session, on both sides. At the level of errors, so that these have it too where
/// nothing else is logged.
pub(crate) fn about(session: SessionId) -> Span {
    tracing::error_span!(parent: None, "migration", id = %session)
}

/// What a thread of the engine is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ThreadRole {
    /// Runs the attempt: state machine, control connection, what the machine is asked for.
    Migration,
    /// Reads the control connection.
    Control,
    /// Sends or receives pages.
    Channel,
    /// Finds and connects to the destination.
    Dial,
    /// Accepts connections.
    Accept,
    /// Finds out who has connected.
    Greet,
    /// Hears a running machine wait for pages, and asks for them.
    Faults,
}

/// A thread that is to be started: its name, and what it does.
pub type NewThread = (String, Box<dyn FnOnce() + Send>);

/// How threads are started, and what each does before anything else. For programs that confine their threads; a filter of
/// system calls, which holds for a thread and all that it starts, is the example. Others take [`PlainThreads`].
pub trait Threads: Send + Sync {
    /// Starts a thread of that name.
    ///
    /// # Errors
    /// There are no more threads to be had.
    fn spawn(&self, name: String, body: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>>;

    /// Starts several threads, with their names. Programs that have threads started elsewhere save the way there for each; by
    /// default they are started one after the other.
    ///
    /// # Errors
    /// There are no more threads to be had. Those that were started run.
    fn spawn_all(&self, threads: Vec<NewThread>) -> io::Result<Vec<JoinHandle<()>>> {
        threads.into_iter().map(|(name, body)| self.spawn(name, body)).collect()
    }

    /// Called first thing on each thread.
    ///
    /// # Errors
    /// The thread must not be used. What it was to do counts as failed.
    fn enter(&self, role: ThreadRole) -> io::Result<()>;
}

/// Threads like any others.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlainThreads;

impl Threads for PlainThreads {
    fn spawn(&self, name: String, body: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>> {
        thread::Builder::new().name(name).spawn(body)
    }

    fn enter(&self, _role: ThreadRole) -> io::Result<()> {
        Ok(())
    }
}

/// Runs `body`, and returns what it said when it panics. What it worked on may be half changed then.
///
/// # Errors
/// It panicked.
pub fn catch_panic<T>(body: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(body)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
    })
}

/// Starts a thread. See [`new`] for `failed`.
pub(crate) fn spawn(
    threads: &Arc<dyn Threads>,
    role: ThreadRole,
    name: impl Into<String>,
    body: impl FnOnce() + Send + 'static,
    failed: impl FnOnce(String) + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let (name, body) = new(threads, role, name, body, failed);
    threads.spawn(name, body)
}

/// A thread for [`Threads::spawn_all`]. `failed` is called on it, with a reason, if `body` panics or is not even begun: a caller
/// waits for what it was to do. What it logs is about the migration that whoever calls this logs about.
pub(crate) fn new(
    threads: &Arc<dyn Threads>,
    role: ThreadRole,
    name: impl Into<String>,
    body: impl FnOnce() + Send + 'static,
    failed: impl FnOnce(String) + Send + 'static,
) -> NewThread {
    let name = name.into();
    let (theirs, called, about) = (threads.clone(), name.clone(), Span::current());
    let body = move || {
        let _about = about.entered();
        match theirs.enter(role) {
            Ok(()) => {
                if let Err(panic) = catch_panic(body) {
                    failed(format!("Thread '{called}' panicked: {panic}"));
                }
            }
            Err(error) => failed(format!("Thread '{called}' cannot be used: {}", crate::chain(&error))),
        }
    };
    (name, Box::new(body))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    struct Refusing;

    impl Threads for Refusing {
        fn spawn(&self, name: String, body: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>> {
            PlainThreads.spawn(name, body)
        }

        fn enter(&self, _role: ThreadRole) -> io::Result<()> {
            Err(io::Error::other("no filter"))
        }
    }

    fn failure(threads: impl Threads + 'static, body: impl FnOnce() + Send + 'static) -> Option<String> {
        let (sender, reasons) = channel();
        let failed = move |reason| sender.send(reason).unwrap();
        let threads: Arc<dyn Threads> = Arc::new(threads);
        let thread = spawn(&threads, ThreadRole::Channel, "mig-send-3", body, failed).unwrap();
        thread.join().unwrap();
        reasons.try_recv().ok()
    }

    #[test]
    fn whoever_waits_for_a_thread_that_panics_is_told() {
        let reason = failure(PlainThreads, || panic!("on purpose, {}", 7));
        assert_eq!(reason.unwrap(), "Thread 'mig-send-3' panicked: on purpose, 7");
        assert_eq!(failure(PlainThreads, || {}), None);
    }

    #[test]
    fn a_thread_that_cannot_be_confined_does_nothing() {
        let reason = failure(Refusing, || unreachable!());
        assert_eq!(reason.unwrap(), "Thread 'mig-send-3' cannot be used: no filter");
    }
}
