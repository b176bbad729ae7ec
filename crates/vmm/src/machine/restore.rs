use std::{sync::Arc, time::Instant};

use config::{Backing, Config};
use devices::virtio::VirtioMmio;
use kvm_ioctls::Cap;
use ram::Ram;
use state::{DeviceState, Schema as _, StateError};

use super::{
    Machine,
    board::{Board, VcpuError, set_cpuid},
    boot_image::{self, BootImage},
    build::{self, BuildError},
    description::{Differences, MachineDescription},
    ids,
    image::{self, ImageClues, Images},
    look::{PATIENCE, Sight},
    page_faults::PageFaults,
    resources::HostResources,
    room::{NoRoom, Room},
    states::{States, StatesError},
    storage::Storage,
    workshop::{DeviceError, Extras, Origin, Workshop},
};
use crate::{
    arch::{ClockV1, IrqchipV1, PitV1, Time, Transit, VcpuV1, is_reachable, restore_vcpu},
    events::{Events, RequestsV2},
    kvm::{KvmError, Trying as _},
    launcher::Launcher,
    vcpu::VcpuThreads,
};

/// A machine that waits for its contents: VM, memory, parked vCPUs and host resources are there, the disks are not locked,
/// nothing has been started.
#[derive(Debug)]
pub struct Incoming {
    board: Board,
    resources: HostResources,
    extras: Extras,
    keep: Keep,
    description: MachineDescription,
    images: Images,
    events: Events,
}

/// What a process keeps while it waits for a machine, however many attempts that takes: the files that a reboot needs, which
/// may be gone by then, and the threads of the vCPUs, which may have been pinned. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Keep {
    boot: Option<Arc<BootImage>>,
    threads: VcpuThreads,
    page_faults: Arc<PageFaults>,
    /// Of a machine whose memory is not reserved from the start.
    room: Option<Arc<Room>>,
    /// Of the disks: a look that hangs may outlast an attempt.
    sights: Vec<Sight>,
    /// Of where the serial port leads.
    serial: Sight,
}

impl Keep {
    /// Opens what `config` boots, if it does. Threads are started with the first machine.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn open(config: &Config, page_faults: PageFaults) -> Result<Self, BuildError> {
        let boot = BootImage::open(config)?.map(Arc::new);
        let sights = config.disks().iter().map(|_| Sight::default()).collect();
        let page_faults = Arc::new(page_faults);
        let is_reserved = config.memory_backing() == Backing::Hugetlb;
        let room = (!is_reserved).then(|| Arc::new(Room::open()));
        let (threads, serial) = (VcpuThreads::default(), Sight::default());
        Ok(Self { boot, threads, page_faults, room, sights, serial })
    }

    /// What accesses to pages of a machine that are still to come are made to wait with.
    pub(crate) fn page_faults(&self) -> &PageFaults {
        &self.page_faults
    }

    /// Whether there is memory for so many bytes, of the machine's `total`, that are to come while it runs.
    pub(crate) fn has_room(&self, missing: u64, total: u64) -> Result<(), NoRoom> {
        self.room.as_ref().map_or(Ok(()), |room| room.is_enough(missing, total))
    }

    /// The kernel's ids of the vCPUs' threads, in the order of the vCPUs. None before the first machine was prepared.
    #[must_use]
    pub fn vcpu_threads(&self) -> Vec<u32> {
        self.threads.ids()
    }
}

/// Why a machine could not be restored. What was built of it is gone; a new [`Incoming`] can be prepared.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The machine does not fit.
    #[error("The machine does not fit here: {}", .0.join("; "))]
    Mismatch(Vec<String>),
    /// States are missing, left over, or cannot be read.
    #[error(transparent)]
    States(#[from] StatesError),
    /// KVM refused.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// A vCPU refused its state.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// A device refused its state.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The machine could not be put together.
    #[error(transparent)]
    Build(#[from] BuildError),
}

impl Incoming {
    /// Builds all of the machine that `config` describes that is not its contents, with what is kept from one to the next: only
    /// one at a time can have its threads.
    ///
    /// # Errors
    /// Something that the machine needs is missing, or not what it should be.
    pub fn prepare(config: &Config, keep: &Keep, events: Events) -> Result<Self, BuildError> {
        let resources = HostResources::open(config, &keep.sights, &keep.serial)?;
        let board = build::board(config, &events, &keep.threads)?;
        let extras = build::extras(config);
        let mut description =
            MachineDescription::of(config, &board, &resources, extras, keep.boot.as_deref());
        // What comes may be of a release that saved more, and what its guest cannot reach.
        description.msrs.clone_from(&board.processor.accepted_msrs);
        let images = Images::of(&resources, &keep.sights);
        Ok(Self { board, resources, extras, keep: keep.clone(), description, images, events })
    }

    /// How the machine described by `offered` differs from the one that is awaited here.
    #[must_use]
    pub fn differences(&self, offered: &MachineDescription) -> Differences {
        self.description.differences(offered, self.can_scale_tsc())
    }

    /// Looks at the files and images of this side: whether what a reboot would start is what it was, and how the images of the
    /// machine described by `offered` differ from those here, as far as that is not among [`Self::differences`]. Takes five
    /// seconds at most, where storage does not answer.
    pub(crate) fn look(
        &self,
        offered: &MachineDescription,
        clues: &ImageClues,
        launcher: &Launcher,
    ) -> (Option<String>, Vec<String>) {
        let (boot, images, own, clues) =
            (self.keep.boot.clone(), self.images.clone(), launcher.clone(), clues.clone());
        // All at once: the source waits for each turn that a thread has to wait for on a busy host.
        let begun =
            launcher.run(move || (boot.map(|boot| (boot.begin(&own), boot)), images.begin(&own, &clues)));
        let (verifying, comparing) = match begun {
            Ok(looks) => looks,
            Err(defect) => return (Some(defect.to_string()), Vec::new()),
        };
        let deadline = Instant::now() + PATIENCE;
        // A file may have been overwritten while this side waited.
        let changed = verifying.and_then(|(look, boot)| boot.seen(look, deadline).err());
        let found = image::differences(comparing, deadline).into_iter().enumerate();
        let disks = found.zip(offered.disks.iter().zip(&self.description.disks));
        // An image of another size is another one, and that was said.
        let disks = disks.filter(|(_, (theirs, ours))| theirs.capacity_sectors == ours.capacity_sectors);
        let other = disks.filter_map(|((index, why), _)| {
            Some(format!("The image of disk '{}' {}", ids::disk(index), why?))
        });
        (changed.map(|error| engine::chain(&error)), other.collect())
    }

    /// What this machine would be if it booted here.
    #[must_use]
    pub fn description(&self) -> &MachineDescription {
        &self.description
    }

    /// The memory, all zero until something is placed in it.
    #[must_use]
    pub fn ram(&self) -> &Ram {
        &self.board.ram
    }

    /// Makes the machine that `source` described and that was saved as `states`. Its memory must be in place. It is
    /// paused, and its disks are not locked.
    ///
    /// Time goes on from where it was saved, by the wall clocks of both hosts where these are set alike or have been compared, else by what has
    /// passed since the states came here, in `transit`: restoring is best done just before the machine resumes. Restoring vCPUs makes KVM
    /// write a little guest memory (the clock pages of guests that use kvmclock): digests are to be compared before.
    ///
    /// # Errors
    /// The machine does not fit, or its states are not those of its devices.
    pub fn restore(
        mut self,
        source: &MachineDescription,
        states: &[DeviceState],
        transit: Transit,
    ) -> Result<Machine, RestoreError> {
        self.check(source)?;
        let boot = self.keep.boot.clone();
        let boot =
            boot.ok_or_else(|| RestoreError::Mismatch(boot_image::reasons(source.boot.as_ref(), None)))?;
        let mut states = States::new(states)?;
        self.become_like(source)?;
        let tsc = self.restore_chips(&mut states, transit)?;
        let requests: RequestsV2 = states.decode(ids::REQUESTS)?;
        let vcpus = decode_vcpus(&mut states, source, &self.board.processor.msrs)?;
        let Self { board, resources, extras, description, images, events, .. } = self;
        let workshop = Workshop {
            vm: &board.hypervisor.vm,
            memory: board.ram.memory(),
            events: &events,
            origin: Origin::Saved(&mut states),
        };
        let storage = Storage::new(&resources.disks).map_err(BuildError::Threads)?;
        let (devices, buses) = workshop.make(resources, extras)?;
        states.finish()?;
        *board.buses.write() = Arc::new(buses);
        restore_vcpus(&board, vcpus, Time { tsc })?;
        let description = MachineDescription {
            // What it is called is up to those who await it. What it can be offered is up to the devices that it has now.
            name: description.name,
            // It is saved here from now on.
            xsave_bytes: description.xsave_bytes,
            msrs: board.processor.msrs.clone(),
            devices: description.devices,
            macs: devices.nets.iter().map(VirtioMmio::permanent_mac).collect(),
            ..source.clone()
        };
        let machine = Machine::assemble(board, devices, storage, boot, description, images, events)?;
        machine.events.restore(&requests);
        Ok(machine)
    }

    /// Whether the guest can go on here. Who the machine is was settled before it came.
    fn check(&self, source: &MachineDescription) -> Result<(), RestoreError> {
        let mut unfit = self.description.differences(source, self.can_scale_tsc()).unfit;
        if source.cpus != self.description.cpus {
            unfit.push(format!("It has {} vCPUs, there are {}", source.cpus, self.description.cpus));
        }
        if unfit.is_empty() { Ok(()) } else { Err(RestoreError::Mismatch(unfit)) }
    }

    /// Takes over the processor of the source: its CPUID, the registers it saves, the speed of its counter.
    fn become_like(&mut self, source: &MachineDescription) -> Result<(), RestoreError> {
        let scale = self.can_scale_tsc().then_some(source.tsc_khz);
        self.board.on_vcpus(|vcpu| {
            let cpuid = source.cpuid.clone();
            move |fd| {
                set_cpuid(fd, &cpuid, vcpu)?;
                if let Some(khz) = scale {
                    fd.set_tsc_khz(khz).trying("scale the time-stamp counter")?;
                }
                Ok(())
            }
        })?;
        self.board.processor.cpuid.clone_from(&source.cpuid);
        let processor = &mut self.board.processor;
        processor.msrs.clone_from(&source.msrs);
        // What KVM does not take here the guest cannot reach: that was compared before.
        processor
            .msrs
            .retain(|index| processor.accepted_msrs.contains(index) && is_reachable(*index, &source.cpuid));
        processor.tsc_khz = source.tsc_khz;
        self.board.power_on.keep_only_msrs(&source.msrs);
        Ok(())
    }

    /// Restores what the vCPUs share, the clock first; returns the time-stamp counter for the vCPUs.
    fn restore_chips(&self, states: &mut States, transit: Transit) -> Result<u64, RestoreError> {
        let vm = &self.board.hypervisor.vm;
        let clock = states.decode::<ClockV1>(ids::CLOCK)?;
        let tsc = clock.restore(vm, self.board.processor.tsc_khz, transit)?;
        states.decode::<IrqchipV1>(ids::IRQCHIP)?.restore(vm)?;
        states.decode::<PitV1>(ids::PIT)?.restore(vm)?;
        Ok(tsc)
    }

    fn can_scale_tsc(&self) -> bool {
        self.board.hypervisor.kvm.check_extension(Cap::TscControl)
    }
}

/// The states of all vCPUs, each with the model-specific registers that the source said it saves, as far as they are `wanted`.
fn decode_vcpus(
    states: &mut States,
    source: &MachineDescription,
    wanted: &[u32],
) -> Result<Vec<VcpuV1>, StatesError> {
    let decode = |index| {
        let id = ids::vcpu(index);
        let mut vcpu: VcpuV1 = states.decode(&id)?;
        if vcpu.has_msrs(&source.msrs) {
            vcpu.keep_only_msrs(wanted);
            return Ok(vcpu);
        }
        let detail = "it has other model-specific registers than the source said".into();
        Err(StateError::Invalid { id, kind: VcpuV1::KIND, detail }.into())
    };
    (0..source.cpus).map(decode).collect()
}

/// Restores all vCPUs, each on its thread.
pub(super) fn restore_vcpus(board: &Board, vcpus: Vec<VcpuV1>, time: Time) -> Result<(), VcpuError> {
    let xsave_bytes = board.hypervisor.xsave_bytes;
    let mut vcpus = vcpus.into_iter();
    board.on_vcpus(|_| {
        let state = vcpus.next();
        move |fd| state.map_or(Ok(()), |state| restore_vcpu(fd, state, xsave_bytes, time))
    })?;
    Ok(())
}
