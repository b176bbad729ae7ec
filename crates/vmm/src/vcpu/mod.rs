//! vCPUs: each has a thread of its own, which is parked until the machine runs.

mod exit;
mod kick;
mod rest;
mod run;
mod threads;
mod times;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    time::{Duration, Instant},
};

use devices::MachineRequests as _;
use kvm_ioctls::VcpuFd;
use parking_lot::{Condvar, Mutex, RwLock};

pub(crate) use threads::VcpuThreads;
pub(crate) use times::Spent;

use crate::{bus::Buses, events::Events, kvm::DirtyRings, panics};
use kick::ImmediateExit;
use rest::Rest;
use run::End;
use threads::Worker;
use times::Meter;

/// A call made on the vCPU's own thread.
type Call = Box<dyn FnOnce(&mut VcpuFd) + Send>;

enum Command {
    Run,
    Call(Call),
}

/// One vCPU, and the handle of its thread. Dropping it ends the vCPU; the thread goes back to where it came from.
pub(crate) struct Vcpu {
    shared: Arc<Shared>,
    meter: Meter,
    /// Closed (none) while the thread is told to end.
    commands: Option<Sender<Command>>,
    worker: Option<Worker>,
    threads: VcpuThreads,
}

/// What the thread and its handle share.
struct Shared {
    /// Asks the thread to park; see [`kick`].
    stop: AtomicBool,
    immediate_exit: ImmediateExit,
    /// Time that is taken from it while the machine runs.
    rest: Rest,
    /// Whether the thread is in, or on its way into, the guest.
    running: Mutex<bool>,
    parked: Condvar,
}

/// What a vCPU thread works on besides its vCPU.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    /// Filled in when the machine's devices are made, before any vCPU runs.
    pub(crate) buses: Arc<RwLock<Arc<Buses>>>,
    pub(crate) events: Events,
    /// Where KVM writes down which pages vCPUs dirty, if it does.
    pub(crate) rings: Option<Arc<DirtyRings>>,
}

impl Vcpu {
    /// Hands vCPU number `index` to one of `threads`, parked.
    pub(crate) fn spawn(
        index: u8,
        mut fd: VcpuFd,
        surroundings: Surroundings,
        threads: &VcpuThreads,
    ) -> io::Result<Self> {
        kick::install_handler().map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            immediate_exit: ImmediateExit::map(&fd)?,
            rest: Rest::default(),
            running: Mutex::new(false),
            parked: Condvar::new(),
        });
        let meter = Meter::new(&fd);
        let (commands, inbox) = channel();
        let theirs = shared.clone();
        let worker = threads.take(index)?;
        worker.begin(move || serve(index, &mut fd, &theirs, &surroundings, &inbox));
        let (commands, worker) = (Some(commands), Some(worker));
        Ok(Self { shared, meter, commands, worker, threads: threads.clone() })
    }

    /// Lets the vCPU run. It must be parked.
    pub(crate) fn run(&self) {
        self.shared.stop.store(false, Ordering::SeqCst);
        *self.shared.running.lock() = true;
        if !self.send(Command::Run) {
            *self.shared.running.lock() = false;
        }
    }

    /// The kernel's id of the thread, for whoever pins it to a CPU.
    pub(crate) fn thread_id(&self) -> u32 {
        self.worker.as_ref().map_or(0, Worker::id)
    }

    /// What it has spent its time on besides the guest.
    pub(crate) fn spent(&self) -> Spent {
        self.meter.read(self.thread_id())
    }

    /// Page faults of the guest that KVM has resolved, where KVM tells.
    pub(crate) fn faults(&self) -> Option<u64> {
        self.meter.faults()
    }

    /// Asks the vCPU to leave the guest, without waiting: all are asked before one is waited for.
    pub(crate) fn ask_to_stop(&self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.make_it_leave();
        self.shared.rest.end();
    }

    /// Has the vCPU do nothing for so long, once, or until it is asked to stop. Does nothing if it rests already.
    pub(crate) fn rest(&self, piece: Duration) {
        if self.shared.rest.ask(piece) {
            self.make_it_leave();
        }
    }

    /// How long it has rested since it was made.
    pub(crate) fn rested(&self) -> Duration {
        self.shared.rest.taken()
    }

    /// Whatever was asked of it: it looks what that was.
    fn make_it_leave(&self) {
        self.shared.immediate_exit.set(true);
        if let Some(thread) = self.worker.as_ref().and_then(Worker::thread) {
            kick::interrupt(thread);
        }
    }

    /// Waits until the vCPU is out of the guest and has completed what it was doing there. Returns whether it came to that by
    /// `deadline`, if there is one: a device may wait for memory that is still to come, and the vCPU for the device.
    pub(crate) fn wait_until_parked(&self, deadline: Option<Instant>) -> bool {
        let mut running = self.shared.running.lock();
        while *running {
            match deadline {
                None => self.shared.parked.wait(&mut running),
                Some(deadline) => {
                    if self.shared.parked.wait_until(&mut running, deadline).timed_out() {
                        return !*running;
                    }
                }
            }
        }
        true
    }

    /// Starts `call` on the vCPU's thread, and hands back where its result will be. Starting it on all vCPUs before
    /// reading the first result makes them work at the same time. The channel is closed without a result when the
    /// thread has died.
    pub(crate) fn start<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut VcpuFd) -> T + Send + 'static,
    ) -> Receiver<T> {
        let (reply, result) = channel();
        self.send(Command::Call(Box::new(move |fd| {
            // The other end is gone only when nobody wants the result.
            let _ = reply.send(call(fd));
        })));
        result
    }

    fn send(&self, command: Command) -> bool {
        self.commands.as_ref().is_some_and(|commands| commands.send(command).is_ok())
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        self.commands = None;
        self.ask_to_stop();
        if let Some(worker) = self.worker.take() {
            // A VM is gone when the last of its descriptors is.
            worker.finish();
            self.threads.give_back(worker);
        }
    }
}

impl std::fmt::Debug for Vcpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vcpu").field("running", &*self.shared.running.lock()).finish_non_exhaustive()
    }
}

/// The life of a vCPU thread.
fn serve(
    index: u8,
    fd: &mut VcpuFd,
    shared: &Shared,
    surroundings: &Surroundings,
    inbox: &Receiver<Command>,
) {
    // Dropped last, whatever happens in between: nobody waits for a thread that is gone.
    let _parked = ParkOnDrop(shared);
    while let Ok(command) = inbox.recv() {
        match command {
            // Whoever waits for the result of a call that panics learns of it by the end of the channel.
            Command::Call(call) => drop(panics::catch(|| call(fd))),
            Command::Run => {
                let buses = surroundings.buses.read().clone();
                let end = panics::catch(|| run::run(fd, shared, &buses, surroundings.rings.as_deref()));
                let end = end.unwrap_or_else(|panic| End::Failed(format!("it panicked: {panic}")));
                tell(&surroundings.events, index, end);
                shared.park();
            }
        }
    }
}

impl Shared {
    fn park(&self) {
        *self.running.lock() = false;
        self.parked.notify_all();
    }
}

struct ParkOnDrop<'a>(&'a Shared);

impl Drop for ParkOnDrop<'_> {
    fn drop(&mut self) {
        self.0.park();
    }
}

/// Tells the program why a vCPU has left the guest.
fn tell(events: &Events, vcpu: u8, end: End) {
    match end {
        End::Asked => {}
        End::Shutdown(place) => {
            tracing::warn!(
                vcpu,
                place,
                "A processor has shut down (triple fault): the guest has crashed, or resets itself so"
            );
            events.reset();
        }
        End::Failed(reason) => events.failed(format!("vcpu{vcpu}"), reason),
    }
}
