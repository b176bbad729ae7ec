//! A toy monitor: a machine of 16 MiB and one vCPU moves from one process to another. `docs/embedding.md` goes through it.
//!
//! ```text
//! cargo run -p whimbrel-engine --example toy_monitor
//! ```
//!
//! The process that is started waits for the machine, and starts a second one that has it. There is no hypervisor: the vCPU is a
//! thread, and what it writes is logged by software. All that is used of Whimbrel is what `whimbrel_engine` exports.

use std::{
    env, fs,
    hash::{BuildHasher, Hasher, RandomState},
    io,
    process::Command,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use whimbrel_engine::{
    Address, DestinationMachine, DeviceInfo, DeviceState, Dialler, Digest, DirtyLog, GuestMemory, Heard,
    Hello, Incomplete, Listener, MachineError, Observer, Offer, Outcome, PAGE_SIZE, Params, Ram, Schema,
    SessionId, SourceMachine, Status, Trust, Userfaultfd, Value, VcpuTimes, destination, not_read, source,
    vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap},
};

const RELEASE: &str = "toy-monitor 1";
/// Tells the second process where to move its machine to.
const MOVE_TO: &str = "TOY_MONITOR_MOVE_TO";
const PAGES: u64 = 4096;
/// Pages that the vCPU writes over and over; the first of memory.
const BUSY_PAGES: u64 = 512;

pub(crate) fn main() -> Result<(), MachineError> {
    match env::var(MOVE_TO) {
        Ok(address) => send_away(&address),
        Err(_) => take_in(),
    }
}

/// The first process: waits for the machine, and checks that it runs on.
fn take_in() -> Result<(), MachineError> {
    let listener = Listener::bind(&"tcp:127.0.0.1:0".parse()?, &Trust::ThisHost)?;
    let address = listener.address().to_string();
    let arrived = Arc::new(Mutex::new(None));
    let place = Place { memory: Memory::new()?, writes: 0, arrived: arrived.clone() };
    let offer = Offer::of(RELEASE);
    let handle = destination::listen(Box::new(place), listener, offer, Arc::new(Printer("destination")))?;

    let mut other = Command::new(env::current_exe()?).env(MOVE_TO, address).spawn()?;
    if !other.wait()?.success() {
        handle.stop();
        handle.join();
        return Err("the process that had the machine failed".into());
    }
    handle.join_within(Duration::from_secs(10));
    let toy: Option<Arc<Toy>> = arrived.lock().unwrap_or_else(PoisonError::into_inner).take();
    let toy = toy.ok_or("the machine did not arrive")?;
    let before = toy.writes();
    let deadline = Instant::now() + Duration::from_secs(10);
    while toy.writes() < before + BUSY_PAGES && Instant::now() < deadline {
        thread::yield_now();
    }
    toy.halt();
    toy.memory.check(toy.writes())?;
    let figures = handle.snapshot();
    println!(
        "destination: {} pages and {} zero pages arrived, and the vCPU has written {} times since",
        figures.pages.raw,
        figures.pages.zero,
        toy.writes() - before
    );
    if toy.writes() > before { Ok(()) } else { Err("the vCPU does not run".into()) }
}

/// The second process: has the machine, and moves it while it runs.
fn send_away(address: &str) -> Result<(), MachineError> {
    let toy = Toy::new(Memory::new()?, 0);
    toy.memory.fill()?;
    toy.run();
    let dialler = Dialler::new(address.parse::<Address>()?, Trust::ThisHost);
    let target = source::Target::new(dialler, new_session(), Offer::of(RELEASE));
    let params = Params::default().channels(2).digest(Digest::Full);
    let handle = source::start(toy.clone(), params, target, Arc::new(Printer("source")))?;
    handle.join();
    let figures = handle.snapshot();
    if figures.status != Status::Completed {
        return Err(format!("the migration ended as {:?}", figures.status).into());
    }
    println!(
        "source: {:.1} MB in {} rounds and {:.1} ms, downtime {:.1} ms",
        figures.sent_bytes as f64 / 1e6,
        figures.statistics.rounds.len(),
        figures.elapsed.as_secs_f64() * 1e3,
        figures.statistics.downtime.total.unwrap_or_default().as_secs_f64() * 1e3
    );
    Ok(())
}

/// Identifies an attempt. A monitor has a better source of random numbers.
fn new_session() -> SessionId {
    let random = [(); 2].map(|()| RandomState::new().build_hasher().finish());
    SessionId(((u128::from(random[0]) << 64) | u128::from(random[1])).to_le_bytes())
}

/// Memory as the monitor sees it, and as the guest does: writes of the guest are not in the monitor's bitmap, as under KVM.
#[derive(Clone)]
struct Memory {
    ram: Ram,
    guest: GuestMemoryMmap<()>,
}

impl Memory {
    fn new() -> Result<Self, MachineError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = format!("toy-monitor-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = env::temp_dir().join(name);
        let file = fs::File::options().read(true).write(true).create_new(true).open(&path)?;
        fs::remove_file(path)?;
        let bytes = PAGES as usize * PAGE_SIZE;
        file.set_len(bytes as u64)?;
        let range = (GuestAddress(0), bytes, Some(FileOffset::new(file, 0)));
        let ours = GuestMemory::from_ranges_with_files([range.clone()])?;
        Ok(Self { ram: Ram::of(ours, &["ram"])?, guest: GuestMemoryMmap::from_ranges_with_files([range])? })
    }

    /// Numbers in the half of memory that is not zero.
    fn fill(&self) -> Result<(), MachineError> {
        for page in 0..PAGES / 2 {
            self.guest.write_obj(page + 1, address(page, 8))?;
        }
        Ok(())
    }

    /// Whether everything is there that was filled in, and the last write to each busy page.
    fn check(&self, writes: u64) -> Result<(), MachineError> {
        for page in 0..PAGES {
            let filled = if page < PAGES / 2 { page + 1 } else { 0 };
            let rounds = if page < BUSY_PAGES { (writes + BUSY_PAGES - 1 - page) / BUSY_PAGES } else { 0 };
            let found: [u64; 2] =
                [self.guest.read_obj(address(page, 0))?, self.guest.read_obj(address(page, 8))?];
            if found != [rounds, filled] {
                return Err(format!("page {page} has {found:?} after {writes} writes").into());
            }
        }
        Ok(())
    }
}

fn address(page: u64, offset: u64) -> GuestAddress {
    GuestAddress(page * PAGE_SIZE as u64 + offset)
}

/// What is saved of the vCPU: its only register.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VcpuV1 {
    writes: u64,
}

impl Schema for VcpuV1 {
    const KIND: &'static str = "toy-vcpu";
    const VERSION: u32 = 1;

    fn older(version: u32, _: Value) -> Result<Self, String> {
        not_read(version)
    }
}

/// What a destination must be able to be: so many pages, in this toy.
#[derive(Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct MachineV1 {
    busy_pages: u64,
}

impl Schema for MachineV1 {
    const KIND: &'static str = "toy-machine";
    const VERSION: u32 = 1;

    fn older(version: u32, _: Value) -> Result<Self, String> {
        not_read(version)
    }
}

fn devices() -> Vec<DeviceInfo> {
    vec![DeviceInfo::of::<VcpuV1>("vcpu0")]
}

/// The log of what the vCPU writes: a bit for each page.
struct Log(Vec<AtomicU64>);

impl Log {
    fn new() -> Self {
        Self((0..PAGES.div_ceil(64)).map(|_| AtomicU64::new(0)).collect())
    }

    /// After the write: a page that is cleared and read before this is read again.
    fn mark(&self, page: u64) {
        self.0[(page / 64) as usize].fetch_or(1 << (page % 64), Ordering::SeqCst);
    }
}

impl DirtyLog for Log {
    fn start(&self) -> io::Result<()> {
        self.0.iter().for_each(|word| word.store(u64::MAX, Ordering::SeqCst));
        Ok(())
    }

    fn stop(&self) -> io::Result<()> {
        Ok(())
    }

    fn fetch(&self, _block: usize, bits: &mut [u64]) -> io::Result<()> {
        bits.iter_mut().zip(&self.0).for_each(|(bits, word)| *bits = word.load(Ordering::SeqCst));
        Ok(())
    }

    fn clear(&self, _block: usize, first_page: u64, _pages: u64, bits: &[u64]) -> io::Result<()> {
        for (word, bits) in self.0[(first_page / 64) as usize..].iter().zip(bits) {
            word.fetch_and(!bits, Ordering::SeqCst);
        }
        Ok(())
    }
}

/// The machine.
struct Toy {
    memory: Memory,
    log: Arc<Log>,
    running: Arc<AtomicBool>,
    writes: Arc<AtomicU64>,
    vcpu: Mutex<Option<JoinHandle<()>>>,
}

impl Toy {
    fn new(memory: Memory, writes: u64) -> Arc<Self> {
        Arc::new(Self {
            memory,
            log: Arc::new(Log::new()),
            running: Arc::default(),
            writes: Arc::new(AtomicU64::new(writes)),
            vcpu: Mutex::default(),
        })
    }

    fn writes(&self) -> u64 {
        self.writes.load(Ordering::SeqCst)
    }

    /// Starts the vCPU, which counts up in one page after the other.
    fn run(&self) {
        self.running.store(true, Ordering::SeqCst);
        let (memory, log) = (self.memory.clone(), self.log.clone());
        let (running, writes) = (self.running.clone(), self.writes.clone());
        let vcpu = thread::spawn(move || {
            while running.load(Ordering::SeqCst) {
                let count = writes.load(Ordering::SeqCst);
                let page = count % BUSY_PAGES;
                if memory.guest.write_obj(count / BUSY_PAGES + 1, address(page, 0)).is_err() {
                    return;
                }
                log.mark(page);
                writes.store(count + 1, Ordering::SeqCst);
            }
        });
        *self.vcpu.lock().unwrap_or_else(PoisonError::into_inner) = Some(vcpu);
    }

    /// Stops the vCPU. Returns whether it ran.
    fn halt(&self) -> bool {
        let ran = self.running.swap(false, Ordering::SeqCst);
        if let Some(vcpu) = self.vcpu.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = vcpu.join();
        }
        ran
    }
}

impl SourceMachine for Toy {
    fn ram(&self) -> Ram {
        self.memory.ram.clone()
    }

    fn dirty_log(&self) -> Arc<dyn DirtyLog> {
        self.log.clone()
    }

    fn vcpu_times(&self) -> Option<VcpuTimes> {
        None
    }

    fn devices(&self) -> Vec<DeviceInfo> {
        devices()
    }

    fn description(&self) -> Result<DeviceState, MachineError> {
        Ok(DeviceState::encode("machine", &MachineV1 { busy_pages: BUSY_PAGES })?)
    }

    fn flush_ahead(&self, _: Duration) -> Result<Option<Duration>, MachineError> {
        // It has no disks.
        Ok(None)
    }

    fn is_running(&self) -> bool {
        self.running.load(Ordering::SeqCst)
    }

    fn stop(&self) -> Result<bool, MachineError> {
        Ok(self.halt())
    }

    fn save(&self) -> Result<Vec<DeviceState>, MachineError> {
        Ok(vec![DeviceState::encode("vcpu0", &VcpuV1 { writes: self.writes() })?])
    }

    /// It has none.
    fn release_disks(&self) -> Result<(), MachineError> {
        Ok(())
    }

    fn resume(&self, run: bool) -> Result<(), MachineError> {
        if run {
            self.run();
        }
        Ok(())
    }
}

/// The place for a machine.
struct Place {
    memory: Memory,
    /// What the vCPU's state says, once it is loaded.
    writes: u64,
    arrived: Arc<Mutex<Option<Arc<Toy>>>>,
}

impl DestinationMachine for Place {
    fn ram(&self) -> Ram {
        self.memory.ram.clone()
    }

    fn devices(&self) -> Vec<DeviceInfo> {
        devices()
    }

    fn check(&self, hello: &Hello, _heard: Heard) -> Vec<String> {
        match hello.machine.decode::<MachineV1>() {
            Ok(machine) if machine == (MachineV1 { busy_pages: BUSY_PAGES }) => Vec::new(),
            Ok(machine) => {
                vec![format!("Its vCPU writes {} pages, here it is {BUSY_PAGES}", machine.busy_pages)]
            }
            Err(error) => vec![error.to_string()],
        }
    }

    fn has_room(&self, _: u64) -> Result<(), MachineError> {
        // Its memory is a few MiB.
        Ok(())
    }

    fn userfault(&self) -> Result<Userfaultfd, MachineError> {
        Ok(Userfaultfd::open()?)
    }

    /// The vCPU has no thread before the machine runs.
    fn vcpu_threads(&self) -> Vec<u32> {
        Vec::new()
    }

    /// It has no clock that would go on.
    fn states_come(&mut self) {}

    /// Only the vCPU touches memory, and it may wait.
    fn lacks(&mut self, _memory: &Arc<Incomplete>) {}

    fn load(&mut self, _machine: &DeviceState, states: &[DeviceState]) -> Result<(), MachineError> {
        let [vcpu] = states else { return Err("there is one vCPU".into()) };
        self.writes = vcpu.decode::<VcpuV1>()?.writes;
        // A toy can tell from the vCPU's state what must be in memory.
        self.memory.check(self.writes)
    }

    /// It has none.
    fn lock_disks(&mut self) -> Result<(), MachineError> {
        Ok(())
    }

    fn run(&mut self, run: bool) -> Result<(), MachineError> {
        let toy = Toy::new(self.memory.clone(), self.writes);
        if run {
            toy.run();
        }
        *self.arrived.lock().unwrap_or_else(PoisonError::into_inner) = Some(toy);
        Ok(())
    }

    fn dismiss(&mut self) -> Result<(), MachineError> {
        Ok(())
    }

    fn discard(&mut self) -> Result<(), MachineError> {
        self.memory = Memory::new()?;
        Ok(())
    }
}

/// Says how it goes.
struct Printer(&'static str);

impl Observer for Printer {
    fn status(&self, status: Status, _: &mut dyn FnMut()) {
        println!("{}: {}", self.0, status.name());
    }

    fn pass(&self, _pass: u32) {}

    fn ended(&self, outcome: &Outcome) {
        if let Outcome::Failed(reason) = outcome {
            println!("{}: {reason}", self.0);
        }
    }
}
