use std::{
    io,
    sync::{Arc, atomic::AtomicBool},
};

use config::Config;
use parking_lot::Mutex;

use super::{
    Machine,
    board::{Board, BoardError, VcpuError},
    boot_image::BootImage,
    description::MachineDescription,
    devices::Devices,
    image::Images,
    look::Sight,
    resources::{HostResources, ResourceError},
    storage::{Storage, StorageError},
    workshop::{DeviceError, Extras, Origin, Workshop},
};
use crate::{
    arch::{Entry, KernelError, boot_registers},
    events::Events,
    io_loop::IoThread,
    vcpu::VcpuThreads,
};

/// Why a machine could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// There is nothing to boot.
    #[error("There is no kernel to boot: give one, or wait for a machine to be migrated in")]
    NoKernel,
    /// KVM or memory.
    #[error(transparent)]
    Board(#[from] BoardError),
    /// A vCPU could not be set up.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// A file, tap or terminal.
    #[error(transparent)]
    Resource(#[from] ResourceError),
    /// A disk image that is in use, or storage that does not answer.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The kernel, the initrd or the command line.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The threads for I/O could not be started.
    #[error("Cannot start the I/O threads")]
    Threads(#[source] io::Error),
}

impl Machine {
    /// Builds the machine that `config` describes, with its kernel loaded and its disks locked. It is paused.
    ///
    /// # Errors
    /// Something that the machine needs is missing, in use, or not what it should be. Nothing is left behind then.
    pub fn boot(config: &Config, events: Events) -> Result<Self, BuildError> {
        // What can be wrong with files is found before memory is allocated.
        let boot = Arc::new(BootImage::open(config)?.ok_or(BuildError::NoKernel)?);
        let resources = HostResources::open(config, &[], &Sight::default())?;
        let storage = Storage::new(&resources.disks).map_err(BuildError::Threads)?;
        storage.lock()?;
        let board = board(config, &events, &VcpuThreads::default())?;
        let description = MachineDescription::of(config, &board, &resources, extras(config), Some(&boot));
        let images = Images::of(&resources, &[]);
        let workshop = Workshop {
            vm: &board.hypervisor.vm,
            memory: board.ram.memory(),
            events: &events,
            origin: Origin::PowerOn,
        };
        let (devices, buses) = workshop.make(resources, extras(config))?;
        *board.buses.write() = Arc::new(buses);
        let entry = boot.load(board.ram.memory(), config.cpus().get(), devices.virtio_slots)?;
        board.start_at(entry)?;
        Self::assemble(board, devices, storage, boot, description, images, events)
    }

    /// Puts the parts together.
    pub(super) fn assemble(
        board: Board,
        devices: Devices,
        storage: Storage,
        boot: Arc<BootImage>,
        description: MachineDescription,
        images: Images,
        events: Events,
    ) -> Result<Self, BuildError> {
        let io: Vec<IoThread> = devices.threads(&events).map_err(BuildError::Threads)?;
        let (running, transition) = (AtomicBool::new(false), Mutex::new(()));
        let lacking = Mutex::default();
        let stood_still = AtomicBool::new(false);
        Ok(Self {
            io,
            board,
            devices,
            storage,
            boot,
            description,
            images,
            events,
            lacking,
            running,
            stood_still,
            transition,
        })
    }
}

/// The VM, memory and vCPUs for `config`.
pub(super) fn board(config: &Config, events: &Events, threads: &VcpuThreads) -> Result<Board, BoardError> {
    let backing = match config.memory_backing() {
        config::Backing::Anonymous => ram::Backing::Anonymous,
        config::Backing::Memfd => ram::Backing::Memfd,
        config::Backing::Hugetlb => ram::Backing::Hugetlb2M,
    };
    let (cpus, cpu) = (config.cpus().get(), config.cpu().model());
    Board::new(cpus, config.memory().bytes(), backing, config.dirty_log(), cpu, events, threads)
}

pub(super) fn extras(config: &Config) -> Extras {
    Extras { rng: config.rng(), balloon: config.balloon(), keyboard: config.keyboard() }
}

impl Board {
    /// Sets the registers with which the guest starts.
    pub(super) fn start_at(&self, entry: Entry) -> Result<(), VcpuError> {
        self.on_vcpus(|vcpu| {
            let entry = (vcpu == 0).then_some(entry);
            move |fd| Ok(boot_registers(fd, entry)?)
        })?;
        Ok(())
    }
}
