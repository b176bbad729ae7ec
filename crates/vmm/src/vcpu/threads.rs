//! The threads of vCPUs outlast the machines they run: where a destination makes its machine anew after a failed attempt, the
//! vCPUs have the threads of before, with the ids that an operator has pinned to CPUs.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{Sender, channel},
    },
    thread::{self, JoinHandle},
};

use parking_lot::Mutex;

use crate::{
    panics,
    seccomp::{self, Role},
};

type Job = Box<dyn FnOnce() + Send>;

/// The threads for the vCPUs of one machine after the other. Cheap to clone: all clones are the same threads.
#[derive(Clone, Debug, Default)]
pub(crate) struct VcpuThreads(Arc<Mutex<Vec<Place>>>);

/// The thread of one vCPU.
#[derive(Debug)]
struct Place {
    id: u32,
    /// Absent while a vCPU has it.
    idle: Option<Worker>,
}

/// A confined thread that does one job after the other. Dropping it waits for the last and ends the thread.
#[derive(Debug)]
pub(super) struct Worker {
    id: u32,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl VcpuThreads {
    /// The kernel's ids of the threads, in the order of the vCPUs.
    pub(crate) fn ids(&self) -> Vec<u32> {
        self.0.lock().iter().map(|place| place.id).collect()
    }

    /// The thread of vCPU number `index`: the one it had before, or a new one. vCPUs come in their order.
    pub(super) fn take(&self, index: u8) -> io::Result<Worker> {
        let mut places = self.0.lock();
        let place = places.get_mut(usize::from(index));
        match place {
            Some(place) => match place.idle.take() {
                Some(worker) => Ok(worker),
                None => Err(io::Error::other("its thread belongs to another machine")),
            },
            None => {
                let worker = Worker::start(index)?;
                places.push(Place { id: worker.id, idle: None });
                Ok(worker)
            }
        }
    }

    /// The vCPU does not need its thread any more.
    pub(super) fn give_back(&self, worker: Worker) {
        if let Some(place) = self.0.lock().iter_mut().find(|place| place.id == worker.id) {
            place.idle = Some(worker);
        }
    }
}

impl Worker {
    /// Starts the thread, and waits until it is confined.
    fn start(index: u8) -> io::Result<Self> {
        let (jobs, inbox) = channel::<Job>();
        let (ready, started) = channel();
        let body = move || {
            let entered = seccomp::enter(Role::Vcpu);
            let go = entered.is_ok();
            let id = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
            // The other end waits for this.
            let _ = ready.send(entered.map(|()| id));
            if go {
                for job in inbox {
                    // Whoever waits for it learns of a panic by the end of its channels.
                    let _ = panics::catch(job);
                }
            }
        };
        let thread = thread::Builder::new().name(format!("vcpu{index}")).spawn(body)?;
        let id = started.recv().map_err(|_| io::Error::other("the thread ended before it began"))??;
        Ok(Self { id, jobs: Some(jobs), thread: Some(thread) })
    }

    /// The kernel's id of the thread.
    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// The thread, for signals.
    pub(super) fn thread(&self) -> Option<&JoinHandle<()>> {
        self.thread.as_ref()
    }

    /// Waits until all jobs are done, and what they owned is dropped.
    pub(super) fn finish(&self) {
        let (living, ended) = channel::<()>();
        self.begin(move || drop(living));
        // An error in any case: nothing is ever sent.
        let _ = ended.recv();
    }

    /// Has `job` done when those before are.
    pub(super) fn begin(&self, job: impl FnOnce() + Send + 'static) {
        if let Some(jobs) = &self.jobs {
            // The thread ends only when this worker is dropped.
            let _ = jobs.send(Box::new(job));
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A job that panicked has said so on standard error.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vcpu_has_the_thread_of_before_again_and_two_never_have_one() {
        let threads = VcpuThreads::default();
        let (first, second) = (threads.take(0).unwrap(), threads.take(1).unwrap());
        let ids = threads.ids();
        assert_eq!(ids, [first.id(), second.id()]);
        assert!(threads.take(0).is_err(), "it is in use");
        first.begin(|| panic!("a defect, on purpose"));
        threads.give_back(first);
        threads.give_back(second);
        let again = threads.take(0).unwrap();
        let (tell, told) = channel();
        again.begin(move || {
            tell.send(rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs()).unwrap();
        });
        assert_eq!(told.recv().unwrap(), ids[0]);
        assert_eq!(threads.ids(), ids);
    }
}
