use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use migration::{Outcome, Status};
use ram::{Block, DirtyLog, Incomplete, Ram, Userfaultfd};
use state::DeviceState;
use wire::{BlockInfo, DeviceInfo, Forward, Hello};

use crate::Throttle;

/// Why a machine could not do what it was asked; the engine passes it on and does not look inside.
pub type MachineError = Box<dyn std::error::Error + Send + Sync>;

/// A machine that is to move, as the engine needs it. All methods are called on the migration thread.
pub trait SourceMachine: Send + Sync {
    /// Guest memory.
    fn ram(&self) -> Ram;
    /// The log of what vCPUs write.
    fn dirty_log(&self) -> Arc<dyn DirtyLog>;
    /// What vCPUs have spent their time on up to now; `None` where that is not known. Called after every round.
    fn vcpu_times(&self) -> Option<VcpuTimes>;
    /// What slows its vCPUs down, where a migration would not come to its end otherwise and may do so ([`migration::Throttling`]);
    /// `None`, the default, for a machine that cannot be slowed down. Asked for once in an attempt.
    fn throttle(&self) -> Option<Arc<dyn Throttle>> {
        None
    }
    /// Every device whose state [`Self::save`] will answer, with the versions in which it may come, which is one for most.
    fn devices(&self) -> Vec<DeviceInfo>;
    /// What the destination's machine must be able to be; it is compared by [`DestinationMachine::check`].
    fn description(&self) -> Result<DeviceState, MachineError>;
    /// The same, when both sides have greeted and it is about to be sent: what of it says what time it is says it now. By default it goes
    /// as it is.
    fn description_now(&self, description: DeviceState) -> DeviceState {
        description
    }

    /// Begins to write what [`Self::stop`] would have to write to stable storage while the machine stands still, and waits so long at
    /// most. Returns how long that would take now; `None` for a machine whose stop writes nothing. Called before the first round, and
    /// after every one while the machine runs.
    ///
    /// # Errors
    /// The storage does not answer: the attempt fails, and the machine was not stopped.
    fn flush_ahead(&self, wait: Duration) -> Result<Option<Duration>, MachineError>;

    /// Whether vCPUs run, as of now. Waits for nothing.
    fn is_running(&self) -> bool;
    /// Stops vCPUs and devices, flushes disks. Returns whether the machine ran until then.
    /// From here to [`Self::resume`] or the end of the process nothing writes guest memory.
    fn stop(&self) -> Result<bool, MachineError>;
    /// The state of every device of a stopped machine. Changes nothing.
    fn save(&self) -> Result<Vec<DeviceState>, MachineError>;
    /// Guest-physical addresses that the stopped machine touches first when it goes on, the surest first: where pages follow the machine,
    /// those around them come first. Nobody relies on it, and by default nothing is known. Called between [`Self::stop`] and [`Self::save`].
    fn touched_next(&self) -> Vec<u64> {
        Vec::new()
    }
    /// Packets that have come for the machine since [`Self::stop`] and that it has not seen, at most so many bytes of them; they are
    /// not had a second time. Called once, when the machine runs at the destination, which hands them to it there
    /// ([`DestinationMachine::deliver`]). By default there are none.
    fn undelivered(&self, most: usize) -> Vec<Forward> {
        let _ = most;
        Vec::new()
    }
    /// Gives up the disk locks, so that the destination can take them.
    fn release_disks(&self) -> Result<(), MachineError>;
    /// The machine stays here after all: takes the disk locks back if they were released, and runs if `run`.
    ///
    /// # Errors
    /// The locks cannot be had: the destination has not let go of the disks yet, or another program uses them. The machine
    /// then stays stopped, and this is called again a moment later.
    fn resume(&self, run: bool) -> Result<(), MachineError>;
}

/// What all vCPUs of a machine together have spent, since they were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VcpuTimes {
    /// Page faults of the guest that the hypervisor resolved; with dirty logging on, nearly all are first writes to a page.
    pub faults: Option<u64>,
    /// CPU time outside of the guest, in the kernel: faults are resolved there.
    pub kernel: Duration,
    /// Time in which they could have run and no CPU was free.
    pub waiting: Duration,
}

impl VcpuTimes {
    /// From CPU time outside of the guest and time without a CPU. Page faults are not known.
    #[must_use]
    pub fn new(kernel: Duration, waiting: Duration) -> Self {
        Self { faults: None, kernel, waiting }
    }
}

/// When a source said what a destination heard: by the clock of the destination, which greeted it before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// After this.
    pub after: Instant,
    /// Before this.
    pub by: Instant,
}

impl Heard {
    /// Just now.
    #[must_use]
    pub fn now() -> Self {
        let now = Instant::now();
        Self { after: now, by: now }
    }
}

/// A machine that can come, as the engine needs it. All methods are called on the migration thread.
pub trait DestinationMachine: Send {
    /// Guest memory, fresh: all zero, not written to since [`Self::discard`] or the start.
    fn ram(&self) -> Ram;
    /// Every device that must come.
    fn devices(&self) -> Vec<DeviceInfo>;
    /// Every reason why the machine that `hello` describes cannot run here, beyond memory blocks and the list of devices,
    /// which the engine compares. What the source says of the present in it, it said in the time that was `heard`.
    fn check(&self, hello: &Hello, heard: Heard) -> Vec<String>;
    /// What accesses to pages that are missing are made to wait with, for a machine that runs before all of its memory is here.
    /// Called in the handshake to find out whether there is one, and when the machine is loaded.
    ///
    /// # Errors
    /// This process may not use it, or the kernel lacks something.
    fn userfault(&self) -> Result<Userfaultfd, MachineError>;
    /// By what pages of its memory are made that arrive before it runs, if it is a memfd and this process may have one: where several channels
    /// bring them at once that is faster than to write them. The memory is not touched by others until [`Self::load`] is called, or
    /// [`Self::discard`]. By default they are written.
    fn page_maker(&self) -> Option<Userfaultfd> {
        None
    }
    /// Whether the host has memory for so many pages that are missing. Afterwards the machine runs here before it has them, and cannot
    /// go back.
    ///
    /// # Errors
    /// It has not: the machine stays at the source.
    fn has_room(&self, pages: u64) -> Result<(), MachineError>;
    /// The threads of its vCPUs, in their order, as the kernel numbers them: who waits for a page is told by them. What is not
    /// in it is not counted as a vCPU's time. Called before [`Self::load`].
    fn vcpu_threads(&self) -> Vec<u32>;
    /// Pages of the memory will follow: before [`Self::load`], of a machine of which that is so. Threads of the machine that should
    /// not wait for one in the kernel ask `memory` before they touch it. Must not keep it: it is dropped when all pages are here.
    fn lacks(&mut self, memory: &Arc<Incomplete>);
    /// The first device state comes: the machine has just been saved at the source. What passes from here on is known without the
    /// wall clocks of two hosts.
    fn states_come(&mut self);
    /// Makes the machine from its states. Memory is complete, and verified where that was asked for; or whoever touches a page that is
    /// missing waits for it.
    fn load(&mut self, description: &DeviceState, states: &[DeviceState]) -> Result<(), MachineError>;
    /// Takes the disk locks.
    fn lock_disks(&mut self) -> Result<(), MachineError>;
    /// Lets the loaded machine run, or leaves it paused; tells the network where it is now. After this the machine belongs here.
    ///
    /// # Errors
    /// Not one instruction of the machine has run.
    fn run(&mut self, run: bool) -> Result<(), MachineError>;
    /// The machine is about to run, and packets for it follow ([`Self::deliver`]): of each device until one that
    /// [is the end](Forward::is_end), or until that takes too long. What comes for it here meanwhile came later, and a machine that gets it
    /// before them takes them for lost. Called before [`Self::run`]; by default nothing waits.
    fn packets_follow(&mut self) {}
    /// Packets that came for the machine at the source while it was on its way. It runs here, or is paused. What is in them came from
    /// a network, and from the peer. By default they are lost, as packets may be.
    fn deliver(&mut self, packets: Forward) {
        let _ = packets;
    }
    /// The machine that was checked last does not come, and nothing of it was written to memory: all is as it was before
    /// [`Self::check`], and the next attempt finds it so.
    fn dismiss(&mut self) -> Result<(), MachineError>;
    /// Throws away what arrived: releases locks, and has fresh memory for the next attempt.
    fn discard(&mut self) -> Result<(), MachineError>;
}

/// Who wants to know how an attempt goes. Called on the migration thread; must not wait for anything.
pub trait Observer: Send + Sync {
    /// The status changes. That the attempt is over is told last, after [`Self::ended`]. From `publish` on whoever asks is told so
    /// too, which the observer may have happen together with whatever it tells; if it does not call it, that happens right afterwards.
    fn status(&self, status: Status, publish: &mut dyn FnMut());
    /// The set of dirty pages was made for the `pass`-th time; the first is all memory.
    fn pass(&self, pass: u32);
    /// The attempt is over on this side, and everything that belonged to it is gone.
    fn ended(&self, outcome: &Outcome);
}

/// Guest memory, as the handshake has it.
pub(crate) fn blocks(ram: &Ram) -> Vec<BlockInfo> {
    let info = |block: &Block| BlockInfo {
        name: block.name().into(),
        guest_address: block.guest_address(),
        bytes: block.bytes(),
    };
    ram.blocks().iter().map(info).collect()
}
