//! A machine without a hypervisor: a thread in the place of vCPUs writes real memory and keeps a dirty log with KVM's
//! contract. The engine, its sockets and its threads are the real ones.
#![allow(dead_code, reason = "no test needs all of it")]

pub(crate) mod travel;

use std::{
    io,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use migration::{Outcome, Status};
use ram::{Backing, BlockLayout, DirtyLog, Incomplete, PAGE_SIZE, Ram, Userfaultfd};
use state::{DeviceState, Schema, Value, not_read};
use vm_memory::{Bytes, GuestAddress};
use whimbrel_engine::{DestinationMachine, Heard, MachineError, Observer, SourceMachine};
use wire::{DeviceInfo, Forward, Hello};

/// Pages of the machine.
pub(crate) const PAGES: u64 = 8192;

#[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CounterV1 {
    pub(crate) writes: u64,
}
impl Schema for CounterV1 {
    const KIND: &'static str = "counter";
    const VERSION: u32 = 1;

    fn older(version: u32, _: Value) -> Result<Self, String> {
        not_read(version)
    }
}

/// The disk that both sides can reach, and the witness of who runs.
#[derive(Default)]
pub(crate) struct Disk {
    holder: Mutex<Option<u64>>,
    running: AtomicU64,
    /// Two machines ran at once.
    pub(crate) two_ran: AtomicBool,
}

impl Disk {
    fn take(&self, id: u64) -> Result<(), MachineError> {
        let mut holder = self.holder.lock().unwrap();
        if holder.is_some_and(|holder| holder != id) {
            return Err("the disk is in use".into());
        }
        *holder = Some(id);
        Ok(())
    }

    fn give(&self, id: u64) {
        self.holder.lock().unwrap().take_if(|holder| *holder == id);
    }

    fn starts(&self) {
        if self.running.fetch_add(1, Ordering::SeqCst) > 0 {
            self.two_ran.store(true, Ordering::SeqCst);
        }
    }

    fn stops(&self) {
        self.running.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A new id for whoever may hold a disk.
fn new_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::SeqCst)
}

/// A machine whose "vCPU" writes pages at random.
pub(crate) struct Machine {
    pub(crate) ram: Ram,
    pub(crate) disk: Arc<Disk>,
    id: u64,
    log: Arc<Log>,
    pub(crate) writes: Arc<AtomicU64>,
    pub(crate) running: Arc<AtomicBool>,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// Microseconds that the "vCPU" rests after every few writes; many machines share few processors.
    pub(crate) rest: AtomicU64,
    /// Packets that have come for it and that it has not seen.
    pub(crate) undelivered: Mutex<Vec<Forward>>,
}

#[derive(Default)]
struct Log {
    words: Vec<AtomicU64>,
}

pub(crate) fn ram() -> Ram {
    ram_of(PAGES)
}

pub(crate) fn ram_of(pages: u64) -> Ram {
    let layout = BlockLayout { name: "ram.low".into(), guest_address: 0, bytes: pages * PAGE_SIZE as u64 };
    Ram::allocate(&[layout], Backing::Memfd).unwrap()
}

fn pages_of(ram: &Ram) -> u64 {
    ram.bytes() / PAGE_SIZE as u64
}

impl Machine {
    /// One that has always been here, with a disk of its own.
    pub(crate) fn new(ram: Ram, writes: u64) -> Arc<Self> {
        let (disk, id) = (Arc::new(Disk::default()), new_id());
        disk.take(id).unwrap();
        Self::with(ram, writes, disk, id)
    }

    fn with(ram: Ram, writes: u64, disk: Arc<Disk>, id: u64) -> Arc<Self> {
        let words = pages_of(&ram).div_ceil(64);
        Arc::new(Self {
            ram,
            disk,
            id,
            log: Arc::new(Log { words: (0..words).map(|_| AtomicU64::new(0)).collect() }),
            writes: Arc::new(AtomicU64::new(writes)),
            running: Arc::default(),
            writer: Mutex::default(),
            rest: AtomicU64::new(0),
            undelivered: Mutex::default(),
        })
    }

    /// Fills half of memory; the other half stays zero.
    pub(crate) fn fill(&self) {
        for page in 0..pages_of(&self.ram) / 2 {
            self.ram.memory().write_obj(page + 1, GuestAddress(page * PAGE_SIZE as u64 + 8)).unwrap();
        }
    }

    /// Runs, writing to `pages` pages.
    pub(crate) fn run(&self, pages: u64) {
        self.disk.starts();
        self.running.store(true, Ordering::SeqCst);
        let (ram, log, writes, running) =
            (self.ram.clone(), self.log.clone(), self.writes.clone(), self.running.clone());
        let rest = std::time::Duration::from_micros(self.rest.load(Ordering::SeqCst));
        let write = move || {
            let mut seed = 7_u64;
            while running.load(Ordering::SeqCst) {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let page = (seed >> 33) % pages;
                let count = writes.fetch_add(1, Ordering::SeqCst) + 1;
                ram.memory().write_obj(count, GuestAddress(page * PAGE_SIZE as u64 + 64)).unwrap();
                log.words[(page / 64) as usize].fetch_or(1 << (page % 64), Ordering::SeqCst);
                if !rest.is_zero() && count % 16 == 0 {
                    std::thread::sleep(rest);
                }
                if seed >> 58 == 0 {
                    // A page becomes zero again, as when a guest frees it.
                    ram.memory().write_slice(&[0; PAGE_SIZE], GuestAddress(page * PAGE_SIZE as u64)).unwrap();
                }
            }
        };
        *self.writer.lock().unwrap() = Some(std::thread::spawn(write));
    }

    pub(crate) fn halt(&self) {
        let ran = self.running.swap(false, Ordering::SeqCst);
        if let Some(writer) = self.writer.lock().unwrap().take() {
            writer.join().unwrap();
        }
        if ran {
            self.disk.stops();
        }
    }

    pub(crate) fn contents(&self) -> Vec<u8> {
        contents(&self.ram)
    }
}

pub(crate) fn contents(ram: &Ram) -> Vec<u8> {
    let mut bytes = vec![0; ram.bytes() as usize];
    ram.memory().read_slice(&mut bytes, GuestAddress(0)).unwrap();
    bytes
}

impl DirtyLog for Log {
    fn start(&self) -> io::Result<()> {
        self.words.iter().for_each(|word| word.store(u64::MAX, Ordering::SeqCst));
        Ok(())
    }
    fn stop(&self) -> io::Result<()> {
        Ok(())
    }
    fn fetch(&self, _: usize, bits: &mut [u64]) -> io::Result<()> {
        bits.iter_mut().zip(&self.words).for_each(|(bit, word)| *bit = word.load(Ordering::SeqCst));
        Ok(())
    }
    fn clear(&self, _: usize, first_page: u64, _: u64, bits: &[u64]) -> io::Result<()> {
        assert_eq!(first_page % 64, 0);
        for (word, bits) in self.words[(first_page / 64) as usize..].iter().zip(bits) {
            word.fetch_and(!bits, Ordering::SeqCst);
        }
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.halt();
    }
}

pub(crate) fn devices() -> Vec<DeviceInfo> {
    vec![DeviceInfo::of::<CounterV1>("counter0")]
}

pub(crate) fn description() -> DeviceState {
    DeviceState::encode("machine", &CounterV1 { writes: 0 }).unwrap()
}

impl SourceMachine for Machine {
    fn ram(&self) -> Ram {
        self.ram.clone()
    }
    fn dirty_log(&self) -> Arc<dyn DirtyLog> {
        self.log.clone()
    }
    fn vcpu_times(&self) -> Option<whimbrel_engine::VcpuTimes> {
        None
    }
    fn devices(&self) -> Vec<DeviceInfo> {
        devices()
    }
    fn description(&self) -> Result<DeviceState, MachineError> {
        Ok(description())
    }
    fn flush_ahead(&self, _: Duration) -> Result<Option<Duration>, MachineError> {
        Ok(None)
    }
    fn is_running(&self) -> bool {
        self.running.load(Ordering::SeqCst)
    }
    fn stop(&self) -> Result<bool, MachineError> {
        let ran = self.running.load(Ordering::SeqCst);
        self.halt();
        Ok(ran)
    }
    fn save(&self) -> Result<Vec<DeviceState>, MachineError> {
        let writes = self.writes.load(Ordering::SeqCst);
        Ok(vec![DeviceState::encode("counter0", &CounterV1 { writes })?])
    }
    fn undelivered(&self, most: usize) -> Vec<Forward> {
        assert_eq!(self.disk.running.load(Ordering::SeqCst), 0, "it may still run here");
        let undelivered = std::mem::take(&mut *self.undelivered.lock().unwrap());
        assert!(undelivered.iter().map(Forward::bytes).sum::<usize>() <= most);
        undelivered
    }
    fn release_disks(&self) -> Result<(), MachineError> {
        self.disk.give(self.id);
        Ok(())
    }
    fn resume(&self, run: bool) -> Result<(), MachineError> {
        self.disk.take(self.id)?;
        if run {
            self.run(pages_of(&self.ram));
        }
        Ok(())
    }
}

/// What a destination has come to; shared with the test.
#[derive(Default)]
pub(crate) struct Arrival {
    pub(crate) machine: Mutex<Option<Arc<Machine>>>,
    pub(crate) ran: Mutex<Option<bool>>,
    /// Whether loading waits until this is no longer so.
    pub(crate) must_wait: Mutex<bool>,
    /// How often what had arrived was thrown away.
    pub(crate) discards: AtomicU64,
    /// Whether packets were foretold.
    pub(crate) foretold: AtomicBool,
    /// Packets that followed the machine.
    pub(crate) delivered: Mutex<Vec<Forward>>,
    /// Whether pages cannot follow the machine here.
    pub(crate) no_userfault: AtomicBool,
    changed: Condvar,
}

impl Arrival {
    fn may_load(&self) {
        drop(self.changed.wait_while(self.must_wait.lock().unwrap(), |must_wait| *must_wait).unwrap());
    }

    /// Lets a machine be loaded that had to wait.
    pub(crate) fn let_load(&self) {
        *self.must_wait.lock().unwrap() = false;
        self.changed.notify_all();
    }
}

pub(crate) struct Vacancy {
    ram: Ram,
    writes: u64,
    disk: Arc<Disk>,
    id: u64,
    arrival: Arc<Arrival>,
}

impl Vacancy {
    pub(crate) fn new(pages: u64, disk: Arc<Disk>, arrival: Arc<Arrival>) -> Self {
        Self { ram: ram_of(pages), writes: 0, disk, id: new_id(), arrival }
    }
}

impl DestinationMachine for Vacancy {
    fn ram(&self) -> Ram {
        self.ram.clone()
    }
    fn devices(&self) -> Vec<DeviceInfo> {
        devices()
    }
    fn check(&self, hello: &Hello, _heard: Heard) -> Vec<String> {
        let differs = hello.machine != description();
        differs.then(|| "Another kind of machine".into()).into_iter().collect()
    }
    fn page_maker(&self) -> Option<Userfaultfd> {
        Userfaultfd::open().ok()
    }
    fn has_room(&self, _: u64) -> Result<(), MachineError> {
        Ok(())
    }
    fn userfault(&self) -> Result<Userfaultfd, MachineError> {
        if self.arrival.no_userfault.load(Ordering::SeqCst) {
            return Err("not today".into());
        }
        Ok(Userfaultfd::open()?)
    }
    fn vcpu_threads(&self) -> Vec<u32> {
        Vec::new()
    }
    fn states_come(&mut self) {}
    fn lacks(&mut self, _: &Arc<Incomplete>) {}
    fn load(&mut self, _: &DeviceState, states: &[DeviceState]) -> Result<(), MachineError> {
        self.arrival.may_load();
        self.writes = states[0].decode::<CounterV1>()?.writes;
        Ok(())
    }
    fn lock_disks(&mut self) -> Result<(), MachineError> {
        self.disk.take(self.id)
    }
    fn run(&mut self, run: bool) -> Result<(), MachineError> {
        // It counts as running without a vCPU of its own, so that a test can compare memory.
        if run && self.disk.running.load(Ordering::SeqCst) > 0 {
            self.disk.two_ran.store(true, Ordering::SeqCst);
        }
        let machine = Machine::with(self.ram.clone(), self.writes, self.disk.clone(), self.id);
        *self.arrival.machine.lock().unwrap() = Some(machine);
        *self.arrival.ran.lock().unwrap() = Some(run);
        Ok(())
    }
    fn packets_follow(&mut self) {
        assert!(self.arrival.ran.lock().unwrap().is_none(), "it may have got others");
        self.arrival.foretold.store(true, Ordering::SeqCst);
    }
    fn deliver(&mut self, packets: Forward) {
        assert!(self.arrival.ran.lock().unwrap().is_some(), "there is no machine yet");
        self.arrival.delivered.lock().unwrap().push(packets);
    }
    fn dismiss(&mut self) -> Result<(), MachineError> {
        Ok(())
    }
    fn discard(&mut self) -> Result<(), MachineError> {
        self.arrival.discards.fetch_add(1, Ordering::SeqCst);
        self.disk.give(self.id);
        self.ram = ram_of(pages_of(&self.ram));
        Ok(())
    }
}

/// Remembers what it was told, and lets a test wait for it.
#[derive(Default)]
pub(crate) struct Notes {
    pub(crate) statuses: Mutex<Vec<Status>>,
    outcome: Mutex<Option<Outcome>>,
    changed: Condvar,
}

impl Notes {
    pub(crate) fn outcome(&self) -> Outcome {
        let outcome = self.outcome.lock().unwrap();
        let wait = std::time::Duration::from_secs(60);
        let (outcome, timeout) =
            self.changed.wait_timeout_while(outcome, wait, |outcome| outcome.is_none()).unwrap();
        assert!(!timeout.timed_out(), "the attempt did not end");
        outcome.clone().unwrap()
    }
}

impl Observer for Notes {
    fn status(&self, status: Status, _: &mut dyn FnMut()) {
        self.statuses.lock().unwrap().push(status);
    }
    fn pass(&self, _: u32) {}
    fn ended(&self, outcome: &Outcome) {
        *self.outcome.lock().unwrap() = Some(outcome.clone());
        self.changed.notify_all();
    }
}
