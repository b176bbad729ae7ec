//! The thread that starts threads, and builds machines, while the process runs.
//!
//! A thread inherits the [system call filter](crate::seccomp) of the thread that starts it. Whoever asks for a migration, a
//! monitor's client, may do little; the migration needs more. So it is not started by the one, but here.

use std::{
    io,
    sync::mpsc::{Sender, channel},
    thread::{self, JoinHandle, ThreadId},
};

use engine::{NewThread, ThreadRole, Threads};

use crate::{
    panics,
    seccomp::{self, Role, SeccompError},
};

/// Has things done by the launcher's thread, which ends with the last handle.
#[derive(Clone, Debug)]
pub(crate) struct Launcher {
    jobs: Sender<Job>,
    thread: ThreadId,
}

type Job = Box<dyn FnOnce() + Send>;

/// What was to be done there ended in a panic, which is on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("This is a defect of whimbrel-vmm, see its log: the thread panicked that was to do it")]
pub(crate) struct Defect;

impl Launcher {
    /// Starts the thread. It has the filter of whoever calls this.
    pub(crate) fn start() -> io::Result<Self> {
        let (jobs, inbox) = channel::<Job>();
        let work = move || {
            for job in inbox {
                // Whoever waits for it learns of a panic by the end of its channel.
                let _ = panics::catch(job);
            }
        };
        let thread = thread::Builder::new().name("launcher".into()).spawn(work)?.thread().id();
        Ok(Self { jobs, thread })
    }

    /// Has `job` done, and waits for it. One comes after the other: a job must not wait for what another job does.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Defect> {
        if thread::current().id() == self.thread {
            return Ok(job());
        }
        let (reply, result) = channel();
        // What the job logs is about what its caller logs about.
        let about = tracing::Span::current();
        let job = move || {
            let _about = about.entered();
            // Only a caller that has died does not wait for it.
            let _ = reply.send(job());
        };
        self.jobs.send(Box::new(job)).map_err(|_| Defect)?;
        result.recv().map_err(|_| Defect)
    }

    /// Starts a thread that is confined to `role` and then runs `body`, or says in the log why it does not.
    pub(crate) fn spawn(
        &self,
        role: Role,
        name: &str,
        body: impl FnOnce() + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        let name = name.to_owned();
        let body = move || match seccomp::enter(role) {
            Ok(()) => body(),
            Err(error) => tracing::error!("{error}"),
        };
        self.run(move || thread::Builder::new().name(name).spawn(body))
            .unwrap_or_else(|defect| Err(io::Error::other(defect)))
    }
}

impl Threads for Launcher {
    fn spawn(&self, name: String, body: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>> {
        self.spawn_all(vec![(name, body)])?.pop().ok_or_else(|| io::Error::other("no thread was started"))
    }

    /// In one job: the way to the launcher and back takes longer than a thread.
    fn spawn_all(&self, threads: Vec<NewThread>) -> io::Result<Vec<JoinHandle<()>>> {
        let spawned = self.run(move || {
            threads.into_iter().map(|(name, body)| thread::Builder::new().name(name).spawn(body)).collect()
        });
        spawned.unwrap_or_else(|defect| Err(io::Error::other(defect)))
    }

    fn enter(&self, role: ThreadRole) -> io::Result<()> {
        let role = match role {
            ThreadRole::Migration => Role::Migration,
            ThreadRole::Channel => Role::Channel,
            ThreadRole::Control => Role::Control,
            ThreadRole::Dial => Role::Dial,
            ThreadRole::Accept => Role::Accept,
            ThreadRole::Greet => Role::Greet,
            ThreadRole::Faults => Role::Faults,
        };
        Ok(seccomp::enter(role)?)
    }
}

impl From<SeccompError> for io::Error {
    fn from(error: SeccompError) -> Self {
        Self::other(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_done_on_the_launchers_thread_also_when_it_asks_for_another() {
        let launcher = Launcher::start().unwrap();
        let inner = launcher.clone();
        let names = launcher.run(move || {
            let name = || thread::current().name().map(str::to_owned);
            (name(), inner.run(name).unwrap())
        });
        assert_eq!(names.unwrap(), (Some("launcher".into()), Some("launcher".into())));
    }

    #[test]
    fn threads_that_are_asked_for_at_once_all_run_under_their_names() {
        let launcher = Launcher::start().unwrap();
        let (sender, names) = channel();
        let thread = |index| -> NewThread {
            let sender = sender.clone();
            let body = move || sender.send(thread::current().name().map(str::to_owned)).unwrap();
            (format!("mig-recv-{index}"), Box::new(body))
        };
        let threads = launcher.spawn_all((0..3).map(thread).collect()).unwrap();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let mut names: Vec<_> = names.try_iter().flatten().collect();
        names.sort();
        assert_eq!(names, ["mig-recv-0", "mig-recv-1", "mig-recv-2"]);
    }

    #[test]
    fn a_job_that_panics_is_told_and_the_next_is_done() {
        let launcher = Launcher::start().unwrap();
        assert_eq!(launcher.run(|| panic!("a defect, on purpose")).map(|never: ()| never), Err(Defect));
        assert_eq!(launcher.run(|| 7), Ok(7));
    }
}
