use std::{io, sync::atomic::AtomicBool};

use config::Config;
use devices::GuestMemory;
use parking_lot::Mutex;
use vm_memory::GuestMemoryError;

use super::{
    Machine,
    board::{Board, BoardError, VcpuError},
    description::MachineDescription,
    devices::Devices,
    image::Images,
    resources::{HostResources, ResourceError},
    workshop::{DeviceError, Extras, Origin, Workshop},
};
use crate::{
    arch::{BootFiles, Entry, KernelError, boot_registers, layout, write_acpi_tables},
    disk_lock::DiskLockError,
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
    /// A disk image that is in use.
    #[error(transparent)]
    Lock(#[from] DiskLockError),
    /// A device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The kernel, the initrd or the command line.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The ACPI tables do not fit: only with less memory than the smallest machine has.
    #[error("Cannot write the ACPI tables into guest memory")]
    Acpi(#[source] GuestMemoryError),
    /// The threads for I/O could not be started.
    #[error("Cannot start the I/O threads")]
    Threads(#[source] io::Error),
}

/// What a machine boots, now and after each reset.
#[derive(Debug)]
pub(super) struct Bootable {
    files: Mutex<BootFiles>,
    command_line: String,
}

impl Machine {
    /// Builds the machine that `config` describes, with its kernel loaded and its disks locked. It is paused.
    ///
    /// # Errors
    /// Something that the machine needs is missing, in use, or not what it should be. Nothing is left behind then.
    pub fn boot(config: &Config, events: Events) -> Result<Self, BuildError> {
        // What can be wrong with files is found before memory is allocated.
        let bootable = Bootable::open(config)?.ok_or(BuildError::NoKernel)?;
        let resources = HostResources::open(config)?;
        resources.disks.iter().try_for_each(|disk| disk.lock.lock())?;
        let board = board(config, &events, &VcpuThreads::default())?;
        let description = MachineDescription::of(config, &board, &resources, extras(config));
        let images = Images::of(&resources);
        let workshop = Workshop {
            vm: &board.hypervisor.vm,
            memory: board.ram.memory(),
            requests: std::sync::Arc::new(events.clone()),
            origin: Origin::PowerOn,
        };
        let (devices, buses) = workshop.make(resources, extras(config))?;
        *board.buses.write() = std::sync::Arc::new(buses);
        let entry = bootable.load(board.ram.memory(), config.cpus().get(), devices.virtio_slots)?;
        board.start_at(entry)?;
        Self::assemble(board, devices, Some(bootable), description, images, events)
    }

    /// Puts the parts together.
    pub(super) fn assemble(
        board: Board,
        devices: Devices,
        bootable: Option<Bootable>,
        description: MachineDescription,
        images: Images,
        events: Events,
    ) -> Result<Self, BuildError> {
        let io: Vec<IoThread> = devices.threads(&events).map_err(BuildError::Threads)?;
        let (running, transition) = (AtomicBool::new(false), Mutex::new(()));
        Ok(Self { io, board, devices, bootable, description, images, events, running, transition })
    }
}

/// The VM, memory and vCPUs for `config`.
pub(super) fn board(config: &Config, events: &Events, threads: &VcpuThreads) -> Result<Board, BoardError> {
    let backing = match config.memory_backing() {
        config::Backing::Anonymous => ram::Backing::Anonymous,
        config::Backing::Memfd => ram::Backing::Memfd,
        config::Backing::Hugetlb => ram::Backing::Hugetlb2M,
    };
    Board::new(config.cpus().get(), config.memory().bytes(), backing, events, threads)
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

impl Bootable {
    /// Opens what `config` boots, if it does.
    pub(super) fn open(config: &Config) -> Result<Option<Self>, KernelError> {
        let Some(boot) = config.boot() else { return Ok(None) };
        let initrd = boot.initrd().map(config::FilePath::as_path);
        let files = BootFiles::open(boot.kernel().as_path(), initrd)?;
        Ok(Some(Self { files: Mutex::new(files), command_line: boot.cmdline().as_str().to_owned() }))
    }

    /// Puts kernel, initrd, command line and ACPI tables into memory that is all zero.
    pub(super) fn load(
        &self,
        memory: &GuestMemory,
        cpus: u8,
        virtio_slots: usize,
    ) -> Result<Entry, BuildError> {
        let command_line = with_virtio_devices(&self.command_line, virtio_slots);
        let entry = self.files.lock().load(memory, &command_line)?;
        write_acpi_tables(memory, cpus, virtio_slots).map_err(BuildError::Acpi)?;
        Ok(entry)
    }
}

/// Names the virtio-mmio devices on the command line too, for guests that read no ACPI tables (Linux,
/// Documentation/admin-guide/kernel-parameters.txt, `virtio_mmio.device`). A user who names some himself has the say.
fn with_virtio_devices(command_line: &str, virtio_slots: usize) -> String {
    const PARAMETER: &str = "virtio_mmio.device=";
    let mut all = command_line.to_owned();
    if command_line.contains(PARAMETER) {
        return all;
    }
    for (address, gsi) in (0..virtio_slots).filter_map(layout::virtio_slot) {
        if !all.is_empty() {
            all.push(' ');
        }
        all.push_str(&format!("{PARAMETER}{}@{address:#x}:{gsi}", layout::VIRTIO_BYTES));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtio_devices_are_named_unless_the_user_does() {
        assert_eq!(
            with_virtio_devices("quiet", 2),
            "quiet virtio_mmio.device=512@0xfeb00000:5 virtio_mmio.device=512@0xfeb00200:6"
        );
        assert_eq!(with_virtio_devices("", 1), "virtio_mmio.device=512@0xfeb00000:5");
        let own = "virtio_mmio.device=4K@0x1000:7";
        assert_eq!(with_virtio_devices(own, 2), own);
    }
}
