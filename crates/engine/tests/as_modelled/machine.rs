//! A machine of a few pages that notes what it is asked, and lets a test strike at that moment.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

use migration::{Outcome, Status};
use ram::{Backing, BlockLayout, DirtyLog, Incomplete, PAGE_SIZE, Ram, Userfaultfd};
use state::DeviceState;
use vm_memory::{Bytes as _, GuestAddress};
use whimbrel_engine::{DestinationMachine, Heard, MachineError, Observer, SourceMachine};
use wire::{DeviceInfo, Hello};

use crate::{source::Ending, trail::Seen};

/// What a machine can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Stop,
    Save,
    ReleaseDisks,
    Check,
    Load,
    LockDisks,
    Run,
}

/// Both machines, their disk, and what is to happen.
pub(crate) struct Stage {
    trail: Mutex<Trail>,
    ended: Condvar,
    /// Called at the first call of that kind: answers whether the call fails.
    strike: Mutex<Option<(Call, Strike)>>,
}

pub(crate) type Strike = Box<dyn FnOnce() -> bool + Send>;

#[derive(Default)]
struct Trail {
    seen: Vec<Seen>,
    disk: Option<Holder>,
    stopped: bool,
    ends: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Holder {
    Source,
    Destination,
}

impl Stage {
    pub(crate) fn new() -> Arc<Self> {
        let trail = Trail { disk: Some(Holder::Source), ..Trail::default() };
        Arc::new(Self { trail: Mutex::new(trail), ended: Condvar::new(), strike: Mutex::default() })
    }

    pub(crate) fn strike_at(&self, call: Call, strike: Strike) {
        *self.strike.lock().unwrap_or_else(PoisonError::into_inner) = Some((call, strike));
    }

    pub(crate) fn note(&self, seen: Seen) {
        self.with(|trail| trail.seen.push(seen));
    }

    pub(crate) fn trail(&self) -> Vec<Seen> {
        self.with(|trail| trail.seen.clone())
    }

    /// Waits until so many attempts have ended at the source.
    pub(crate) fn wait_for_ends(&self, ends: usize) {
        let trail = self.trail.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = self.ended.wait_timeout_while(trail, Duration::from_secs(100), |trail| trail.ends < ends);
        let (trail, timeout) = wait.unwrap_or_else(PoisonError::into_inner);
        assert!(!timeout.timed_out(), "it does not end: {:?}", trail.seen);
    }

    fn with<T>(&self, change: impl FnOnce(&mut Trail) -> T) -> T {
        change(&mut self.trail.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns whether the call fails.
    fn strikes(&self, call: Call) -> bool {
        let strike =
            self.strike.lock().unwrap_or_else(PoisonError::into_inner).take_if(|(at, _)| *at == call);
        strike.is_some_and(|(_, strike)| strike())
    }
}

const PAGES: u64 = 64;

fn memory() -> Ram {
    let layout = BlockLayout { name: "ram".into(), guest_address: 0, bytes: PAGES * PAGE_SIZE as u64 };
    Ram::allocate(&[layout], Backing::Anonymous).expect("a few pages can be had")
}

fn device() -> DeviceState {
    DeviceState { id: "d".into(), kind: "d".into(), version: 1, body: Vec::new() }
}

fn devices() -> Vec<DeviceInfo> {
    let DeviceState { id, kind, version, .. } = device();
    vec![DeviceInfo::new(id, kind, version..=version)]
}

fn failed<T>() -> Result<T, MachineError> {
    Err("on purpose".into())
}

/// Nothing writes the memory of this machine.
struct Clean;

impl DirtyLog for Clean {
    fn start(&self) -> io::Result<()> {
        Ok(())
    }
    fn stop(&self) -> io::Result<()> {
        Ok(())
    }
    fn fetch(&self, _: usize, bits: &mut [u64]) -> io::Result<()> {
        bits.fill(0);
        Ok(())
    }
    fn clear(&self, _: usize, _: u64, _: u64, _: &[u64]) -> io::Result<()> {
        Ok(())
    }
}

/// The machine at the source.
pub(crate) struct Here {
    pub(crate) stage: Arc<Stage>,
    ram: Ram,
}

impl Here {
    /// With something in every page: what was never touched does not follow.
    pub(crate) fn new(stage: Arc<Stage>) -> Self {
        let ram = memory();
        for page in 0..PAGES {
            ram.memory().write_obj(page + 1, GuestAddress(page * PAGE_SIZE as u64)).expect("it is there");
        }
        Self { stage, ram }
    }
}

impl SourceMachine for Here {
    fn ram(&self) -> Ram {
        self.ram.clone()
    }
    fn dirty_log(&self) -> Arc<dyn DirtyLog> {
        Arc::new(Clean)
    }
    fn vcpu_times(&self) -> Option<whimbrel_engine::VcpuTimes> {
        None
    }
    fn devices(&self) -> Vec<DeviceInfo> {
        devices()
    }
    fn description(&self) -> Result<DeviceState, MachineError> {
        Ok(device())
    }
    fn flush_ahead(&self, _: Duration) -> Result<Option<Duration>, MachineError> {
        Ok(None)
    }
    fn is_running(&self) -> bool {
        true
    }
    fn stop(&self) -> Result<bool, MachineError> {
        let fails = self.stage.strikes(Call::Stop);
        self.stage.with(|trail| {
            trail.stopped = !fails;
            trail.seen.push(Seen::Stops { well: !fails });
        });
        if fails { failed() } else { Ok(true) }
    }
    fn save(&self) -> Result<Vec<DeviceState>, MachineError> {
        if self.stage.strikes(Call::Save) { failed() } else { Ok(vec![device()]) }
    }
    fn release_disks(&self) -> Result<(), MachineError> {
        if self.stage.strikes(Call::ReleaseDisks) {
            return failed();
        }
        self.stage.with(|trail| {
            trail.disk.take_if(|holder| *holder == Holder::Source);
            trail.seen.push(Seen::GivesTheDiskUp);
        });
        Ok(())
    }
    fn resume(&self, _: bool) -> Result<(), MachineError> {
        self.stage.with(|trail| {
            let fails = trail.stopped && trail.disk == Some(Holder::Destination);
            if trail.stopped && !fails {
                trail.disk = Some(Holder::Source);
                trail.stopped = false;
            }
            trail.seen.push(Seen::IsTakenBack { well: !fails });
            if fails { failed() } else { Ok(()) }
        })
    }
}

/// The place for the machine at the destination.
pub(crate) struct There {
    pub(crate) stage: Arc<Stage>,
    ram: Ram,
}

impl There {
    pub(crate) fn new(stage: Arc<Stage>) -> Self {
        Self { stage, ram: memory() }
    }
}

impl DestinationMachine for There {
    fn has_room(&self, _: u64) -> Result<(), MachineError> {
        Ok(())
    }
    fn ram(&self) -> Ram {
        self.ram.clone()
    }
    fn devices(&self) -> Vec<DeviceInfo> {
        devices()
    }
    fn check(&self, _: &Hello, _: Heard) -> Vec<String> {
        let fails = self.stage.strikes(Call::Check);
        self.stage.note(Seen::IsChecked { well: !fails });
        if fails { vec!["on purpose".into()] } else { Vec::new() }
    }
    fn userfault(&self) -> Result<Userfaultfd, MachineError> {
        Ok(Userfaultfd::open()?)
    }
    fn vcpu_threads(&self) -> Vec<u32> {
        Vec::new()
    }
    fn states_come(&mut self) {}
    fn lacks(&mut self, _: &Arc<Incomplete>) {}
    fn load(&mut self, _: &DeviceState, _: &[DeviceState]) -> Result<(), MachineError> {
        if self.stage.strikes(Call::Load) {
            self.stage.note(Seen::IsLoaded { well: false });
            return failed();
        }
        Ok(())
    }
    fn lock_disks(&mut self) -> Result<(), MachineError> {
        let fails = self.stage.strikes(Call::LockDisks);
        self.stage.with(|trail| {
            let fails = fails || trail.disk == Some(Holder::Source);
            if !fails {
                trail.disk = Some(Holder::Destination);
            }
            trail.seen.push(Seen::IsLoaded { well: !fails });
            if fails { failed() } else { Ok(()) }
        })
    }
    fn run(&mut self, _: bool) -> Result<(), MachineError> {
        let fails = self.stage.strikes(Call::Run);
        self.stage.note(Seen::Runs { well: !fails });
        if fails { failed() } else { Ok(()) }
    }
    fn dismiss(&mut self) -> Result<(), MachineError> {
        // For the model it is the same: what is not there is thrown away.
        self.stage.note(Seen::IsDiscarded);
        Ok(())
    }
    fn discard(&mut self) -> Result<(), MachineError> {
        self.stage.with(|trail| {
            trail.disk.take_if(|holder| *holder == Holder::Destination);
            trail.seen.push(Seen::IsDiscarded);
        });
        self.ram = memory();
        Ok(())
    }
}

/// Notes the end at the source.
pub(crate) struct Watch(pub(crate) Arc<Stage>);

impl Observer for Watch {
    fn status(&self, _: Status, _: &mut dyn FnMut()) {}
    fn pass(&self, _: u32) {}
    fn ended(&self, outcome: &Outcome) {
        self.0.with(|trail| {
            trail.seen.push(Seen::Ends(Ending::of(outcome)));
            trail.ends += 1;
        });
        self.0.ended.notify_all();
    }
}

/// Notes nothing.
pub(crate) struct Nobody;

impl Observer for Nobody {
    fn status(&self, _: Status, _: &mut dyn FnMut()) {}
    fn pass(&self, _: u32) {}
    fn ended(&self, _: &Outcome) {}
}
