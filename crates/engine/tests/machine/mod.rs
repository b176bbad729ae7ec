//! A machine without a hypervisor: a thread in the place of vCPUs writes real memory and keeps a dirty log with KVM's
//! contract. The engine, its sockets and its threads are the real ones.

use std::{
    io,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use migration::{Outcome, Status};
use ram::{Backing, BlockLayout, DirtyLog, PAGE_SIZE, Ram};
use state::{DeviceState, Schema};
use vm_memory::{Bytes, GuestAddress};
use whimbrel_engine::{DestinationMachine, MachineError, Observer, SourceMachine};
use wire::{DeviceInfo, Hello};

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
}

/// A machine whose "vCPU" writes pages at random.
pub(crate) struct Machine {
    pub(crate) ram: Ram,
    log: Arc<Log>,
    pub(crate) writes: Arc<AtomicU64>,
    pub(crate) running: Arc<AtomicBool>,
    writer: Mutex<Option<JoinHandle<()>>>,
    pub(crate) disks_held: AtomicBool,
}

#[derive(Default)]
struct Log {
    words: Vec<AtomicU64>,
}

pub(crate) fn ram() -> Ram {
    let layout = BlockLayout { name: "ram.low".into(), guest_address: 0, bytes: PAGES * PAGE_SIZE as u64 };
    Ram::allocate(&[layout], Backing::Anonymous).unwrap()
}

impl Machine {
    pub(crate) fn new(ram: Ram, writes: u64) -> Arc<Self> {
        Arc::new(Self {
            ram,
            log: Arc::new(Log { words: (0..PAGES / 64).map(|_| AtomicU64::new(0)).collect() }),
            writes: Arc::new(AtomicU64::new(writes)),
            running: Arc::default(),
            writer: Mutex::default(),
            disks_held: AtomicBool::new(true),
        })
    }

    /// Fills half of memory; the other half stays zero.
    pub(crate) fn fill(&self) {
        for page in 0..PAGES / 2 {
            self.ram.memory().write_obj(page + 1, GuestAddress(page * PAGE_SIZE as u64 + 8)).unwrap();
        }
    }

    /// Runs, writing to `pages` pages.
    pub(crate) fn run(&self, pages: u64) {
        self.running.store(true, Ordering::SeqCst);
        let (ram, log, writes, running) =
            (self.ram.clone(), self.log.clone(), self.writes.clone(), self.running.clone());
        let write = move || {
            let mut seed = 7_u64;
            while running.load(Ordering::SeqCst) {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let page = (seed >> 33) % pages;
                let count = writes.fetch_add(1, Ordering::SeqCst) + 1;
                ram.memory().write_obj(count, GuestAddress(page * PAGE_SIZE as u64 + 64)).unwrap();
                log.words[(page / 64) as usize].fetch_or(1 << (page % 64), Ordering::SeqCst);
                if seed >> 58 == 0 {
                    // A page becomes zero again, as when a guest frees it.
                    ram.memory().write_slice(&[0; PAGE_SIZE], GuestAddress(page * PAGE_SIZE as u64)).unwrap();
                }
            }
        };
        *self.writer.lock().unwrap() = Some(std::thread::spawn(write));
    }

    pub(crate) fn halt(&self) {
        self.running.store(false, Ordering::SeqCst);
        if let Some(writer) = self.writer.lock().unwrap().take() {
            writer.join().unwrap();
        }
    }

    pub(crate) fn contents(&self) -> Vec<u8> {
        contents(&self.ram)
    }
}

pub(crate) fn contents(ram: &Ram) -> Vec<u8> {
    let mut bytes = vec![0; (PAGES as usize) * PAGE_SIZE];
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

fn devices() -> Vec<DeviceInfo> {
    vec![DeviceInfo { id: "counter0".into(), kind: CounterV1::KIND.into(), version: 1 }]
}

fn description() -> DeviceState {
    DeviceState::encode("machine", &CounterV1 { writes: 0 }).unwrap()
}

impl SourceMachine for Machine {
    fn ram(&self) -> Ram {
        self.ram.clone()
    }
    fn dirty_log(&self) -> Arc<dyn DirtyLog> {
        self.log.clone()
    }
    fn devices(&self) -> Vec<DeviceInfo> {
        devices()
    }
    fn description(&self) -> Result<DeviceState, MachineError> {
        Ok(description())
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
    fn release_disks(&self) -> Result<(), MachineError> {
        self.disks_held.store(false, Ordering::SeqCst);
        Ok(())
    }
    fn resume(&self, run: bool) -> Result<(), MachineError> {
        self.disks_held.store(true, Ordering::SeqCst);
        if run {
            self.run(PAGES);
        }
        Ok(())
    }
}

/// What a destination has come to; shared with the test.
#[derive(Default)]
pub(crate) struct Arrival {
    pub(crate) machine: Mutex<Option<Arc<Machine>>>,
    pub(crate) ran: Mutex<Option<bool>>,
}

pub(crate) struct Vacancy {
    pub(crate) ram: Ram,
    pub(crate) writes: u64,
    pub(crate) arrival: Arc<Arrival>,
}

impl DestinationMachine for Vacancy {
    fn ram(&self) -> Ram {
        self.ram.clone()
    }
    fn devices(&self) -> Vec<DeviceInfo> {
        devices()
    }
    fn check(&self, _: &Hello) -> Vec<String> {
        Vec::new()
    }
    fn load(&mut self, _: &DeviceState, states: &[DeviceState]) -> Result<(), MachineError> {
        self.writes = states[0].decode::<CounterV1>()?.writes;
        Ok(())
    }
    fn lock_disks(&mut self) -> Result<(), MachineError> {
        Ok(())
    }
    fn run(&mut self, run: bool) -> Result<(), MachineError> {
        *self.arrival.machine.lock().unwrap() = Some(Machine::new(self.ram.clone(), self.writes));
        *self.arrival.ran.lock().unwrap() = Some(run);
        Ok(())
    }
    fn discard(&mut self) -> Result<(), MachineError> {
        self.ram = ram();
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
    fn status(&self, status: Status) {
        self.statuses.lock().unwrap().push(status);
    }
    fn pass(&self, _: u32) {}
    fn ended(&self, outcome: &Outcome) {
        *self.outcome.lock().unwrap() = Some(outcome.clone());
        self.changed.notify_all();
    }
}
