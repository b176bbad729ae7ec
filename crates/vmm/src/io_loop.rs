//! Threads that work for devices: each waits for the descriptors of its devices, and can be parked between two pieces
//! of work.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use devices::{Interest, IoDevice};
use parking_lot::{Condvar, Mutex};
use rustix::{
    event::epoll::{self, EventData, EventFlags},
    io::Errno,
};
use vmm_sys_util::eventfd::EventFd;

use crate::{
    events::Events,
    panics,
    seccomp::{self, Role},
};

/// Event data of the descriptor that wakes the thread up for a change of [`Wanted`]. No device has this number.
const WAKE: u64 = u64::MAX;

/// Events taken from the kernel at once.
const EVENTS: usize = 32;

/// A thread and the devices it works for. Dropping it ends the thread.
pub(crate) struct IoThread {
    name: String,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    wake: EventFd,
}

struct State {
    wanted: Wanted,
    parked: bool,
    /// Since when it has been at one piece of work.
    busy: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Run,
    Park,
    End,
}

impl IoThread {
    /// Starts a thread for `devices`, parked. If one of them panics, or cannot be waited for, the thread does nothing until it
    /// is told anew to run, and `events` hears of it.
    ///
    /// # Errors
    /// No more descriptors or threads.
    pub(crate) fn spawn(
        name: &str,
        role: Role,
        devices: Vec<Box<dyn IoDevice>>,
        events: Events,
    ) -> io::Result<Self> {
        let wake = EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)?;
        let state = State { wanted: Wanted::Park, parked: false, busy: None };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), wake });
        let epoll = watch(&devices, &shared.wake)?;
        let (theirs, called) = (shared.clone(), name.to_owned());
        let work = move || {
            // Whatever happens, nobody waits for a thread that is gone.
            let _parked = ParkOnDrop(&theirs);
            match seccomp::enter(role) {
                Ok(()) => serve(&theirs, &epoll, devices, |reason| events.failed(called.clone(), reason)),
                Err(error) => events.failed(called, error.to_string()),
            }
        };
        let thread = thread::Builder::new().name(name.into()).spawn(work)?;
        Ok(Self { name: name.into(), shared, thread: Some(thread) })
    }

    /// Lets the thread work, beginning with a look at everything.
    pub(crate) fn run(&self) {
        self.want(Wanted::Run);
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// How long it has been at its present piece of work; zero if it waits for one.
    pub(crate) fn busy_for(&self) -> Duration {
        let state = self.shared.state.lock();
        state.busy.filter(|_| !state.parked).map(|since| since.elapsed()).unwrap_or_default()
    }

    /// Asks the thread to park, without waiting.
    pub(crate) fn ask_to_park(&self) {
        self.want(Wanted::Park);
    }

    /// Waits until the thread, having been asked, does nothing any more. Returns whether it came to that by `deadline`, if there is
    /// one: a thread that touches memory that is still to come waits in the kernel.
    pub(crate) fn wait_until_parked(&self, deadline: Option<Instant>) -> bool {
        let mut state = self.shared.state.lock();
        while !state.parked {
            match deadline {
                None => self.shared.changed.wait(&mut state),
                Some(deadline) => {
                    if self.shared.changed.wait_until(&mut state, deadline).timed_out() {
                        return state.parked;
                    }
                }
            }
        }
        true
    }

    fn want(&self, wanted: Wanted) {
        self.shared.state.lock().wanted = wanted;
        self.shared.changed.notify_all();
        // Fails only when the counter is at its maximum, and then the thread wakes up anyway.
        let _ = self.shared.wake.write(1);
    }
}

impl Drop for IoThread {
    fn drop(&mut self) {
        self.want(Wanted::End);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so on standard error.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for IoThread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IoThread").field("parked", &self.shared.state.lock().parked).finish_non_exhaustive()
    }
}

/// Puts the descriptors of all devices, and the one that wakes the thread up, into one set.
#[expect(unsafe_code, reason = "devices name their descriptors by number")]
fn watch(devices: &[Box<dyn IoDevice>], wake: &EventFd) -> io::Result<OwnedFd> {
    let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    // SAFETY: the descriptor is borrowed for the call below only, and `wake` is open.
    let wake = unsafe { BorrowedFd::borrow_raw(std::os::fd::AsRawFd::as_raw_fd(wake)) };
    epoll::add(&set, wake, EventData::new_u64(WAKE), EventFlags::IN)?;
    for (index, device) in (0u64..).zip(devices) {
        for watch in device.watches() {
            let events = match watch.interest {
                Interest::Read => EventFlags::IN,
                Interest::ReadWrite => EventFlags::IN | EventFlags::OUT,
            };
            // SAFETY: a device's descriptors are open for as long as it lives (`Watch::fd`), and `devices` is borrowed.
            let fd = unsafe { BorrowedFd::borrow_raw(watch.fd) };
            let data = EventData::new_u64(index << 32 | u64::from(watch.token));
            match epoll::add(&set, fd, data, events | EventFlags::ET) {
                // A regular file or /dev/null: always ready, so the look at the start (`kick`) sees all there is.
                Ok(()) | Err(Errno::PERM) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(set)
}

/// The life of an I/O thread.
fn serve(shared: &Shared, set: &OwnedFd, mut devices: Vec<Box<dyn IoDevice>>, failed: impl Fn(String)) {
    loop {
        match shared.rest() {
            Wanted::End => return,
            Wanted::Park => continue,
            Wanted::Run => {}
        }
        let reason = match panics::catch(|| work(shared, set, &mut devices)) {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => format!("it cannot wait for its devices: {error}"),
            Err(panic) => format!("it panicked: {panic}"),
        };
        failed(reason);
        shared.idle();
    }
}

/// Serves the devices as long as that is wanted, beginning with a look at everything.
fn work(shared: &Shared, set: &OwnedFd, devices: &mut [Box<dyn IoDevice>]) -> io::Result<()> {
    let mut events = Vec::with_capacity(EVENTS);
    for device in &mut *devices {
        shared.works(|| device.kick());
    }
    while shared.state.lock().wanted == Wanted::Run {
        turn(shared, set, devices, &mut events)?;
    }
    Ok(())
}

/// Waits once, and serves what is ready.
fn turn(
    shared: &Shared,
    set: &OwnedFd,
    devices: &mut [Box<dyn IoDevice>],
    events: &mut Vec<epoll::Event>,
) -> io::Result<()> {
    events.clear();
    match epoll::wait(set.as_fd(), rustix::buffer::spare_capacity(events), None) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    // All events of a turn are served, also when the thread is to park: an edge that was reported does not come again.
    for event in events.iter() {
        let data = event.data.u64();
        if data == WAKE {
            // Fails when another turn has read it already.
            let _ = shared.wake.read();
        } else if let Some(device) = usize::try_from(data >> 32).ok().and_then(|index| devices.get_mut(index))
        {
            shared.works(|| device.ready(data as u32));
        }
    }
    Ok(())
}

impl Shared {
    /// Parks for as long as that is wanted, and returns what is wanted then.
    fn rest(&self) -> Wanted {
        let mut state = self.state.lock();
        while state.wanted == Wanted::Park {
            state.parked = true;
            self.changed.notify_all();
            self.changed.wait(&mut state);
        }
        state.parked = false;
        state.wanted
    }

    /// Notes how long a piece of work takes.
    fn works(&self, work: impl FnOnce()) {
        self.state.lock().busy = Some(Instant::now());
        work();
        self.state.lock().busy = None;
    }

    /// Does nothing until something else than running is wanted.
    fn idle(&self) {
        let mut state = self.state.lock();
        while state.wanted == Wanted::Run {
            self.changed.wait(&mut state);
        }
    }
}

struct ParkOnDrop<'a>(&'a Shared);

impl Drop for ParkOnDrop<'_> {
    fn drop(&mut self) {
        self.0.state.lock().parked = true;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::fd::AsRawFd as _,
        sync::mpsc::{Sender, channel},
    };

    use devices::Watch;

    use super::*;
    use crate::testing::PATIENCE;

    struct Bell {
        event: EventFd,
        rung: Sender<&'static str>,
    }

    impl IoDevice for Bell {
        fn watches(&self) -> Vec<Watch> {
            vec![Watch { fd: self.event.as_raw_fd(), interest: Interest::Read, token: 7 }]
        }
        fn ready(&mut self, token: u32) {
            assert_eq!((token, self.event.read().unwrap()), (7, 1));
            self.rung.send("ready").unwrap();
        }
        fn kick(&mut self) {
            self.rung.send("kick").unwrap();
        }
    }

    #[test]
    fn a_parked_thread_does_nothing_and_misses_nothing() {
        let event = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let (rung, heard) = channel();
        let bell = Bell { event: event.try_clone().unwrap(), rung };
        let (events, _) = Events::channel();
        let thread = IoThread::spawn("bell", Role::Io, vec![Box::new(bell)], events).unwrap();
        let next = || heard.recv_timeout(PATIENCE).unwrap();

        thread.run();
        assert_eq!(next(), "kick");
        event.write(1).unwrap();
        assert_eq!(next(), "ready");

        thread.ask_to_park();
        assert!(thread.wait_until_parked(None));
        event.write(1).unwrap();
        assert!(heard.try_recv().is_err());

        thread.run();
        assert_eq!([next(), next()], ["kick", "ready"]);
    }

    /// Panics at the first kick.
    struct Broken(Sender<&'static str>, bool);

    impl IoDevice for Broken {
        fn watches(&self) -> Vec<Watch> {
            Vec::new()
        }
        fn ready(&mut self, _token: u32) {}
        fn kick(&mut self) {
            assert!(std::mem::replace(&mut self.1, true), "a defect, on purpose");
            self.0.send("kick").unwrap();
        }
    }

    #[test]
    fn a_device_that_panics_stops_its_thread_until_it_is_run_anew() {
        let ((events, machine), (kicked, heard)) = (Events::channel(), channel());
        let thread =
            IoThread::spawn("disk7", Role::Disk, vec![Box::new(Broken(kicked, false))], events).unwrap();
        thread.run();
        let event = machine.recv_timeout(PATIENCE).unwrap();
        let reason = "it panicked: a defect, on purpose".into();
        assert_eq!(event, crate::MachineEvent::Failed { thread: "disk7".into(), reason });
        thread.ask_to_park();
        assert!(thread.wait_until_parked(None));
        thread.run();
        assert_eq!(heard.recv_timeout(PATIENCE).unwrap(), "kick");
    }
}
