//! A machine without devices: the VM, its memory and its parked vCPUs. Booted and incoming machines both start here.

use std::{io, path::PathBuf, sync::Arc};

use config::DirtyLogKind;
use cpu::CpuModel;
use kvm_ioctls::{Cap, VcpuFd, VmFd};
use parking_lot::RwLock;
use ram::{Backing, Ram, RamError};

use super::huge_page_limit;
use crate::{
    arch::{self, CpuidEntry, IrqchipV1, MsrError, PitV1, VcpuV1, layout},
    bus::Buses,
    events::Events,
    kvm::{DirtyRings, Hypervisor, KvmDirtyLog, KvmError, MemorySlots, Trying as _},
    vcpu::{Surroundings, Vcpu, VcpuThreads},
};

/// The parts of a machine that no device state is needed for.
#[derive(Debug)]
pub(crate) struct Board {
    // Fields are dropped in this order: vCPU threads end before what they run on goes.
    pub(crate) vcpus: Vec<Vcpu>,
    pub(crate) buses: Arc<RwLock<Arc<Buses>>>,
    pub(crate) dirty_log: Tracking,
    pub(crate) ram: Ram,
    pub(crate) hypervisor: Hypervisor,
    pub(crate) processor: Processor,
    /// How everything in KVM is after power-on, for a reset.
    pub(crate) power_on: PowerOn,
}

/// How it is known which pages vCPUs write.
#[derive(Debug)]
pub(crate) enum Tracking {
    /// By a bit for each page.
    Bits(Arc<KvmDirtyLog>),
    /// By a ring for each vCPU.
    Rings(Arc<DirtyRings>),
}

/// What the vCPUs are.
#[derive(Clone, Debug)]
pub(crate) struct Processor {
    /// CPUID of vCPU 0.
    pub(crate) cpuid: Vec<CpuidEntry>,
    /// The model-specific registers that are saved: those that the guest can reach.
    pub(crate) msrs: Vec<u32>,
    /// The registers that KVM takes here, whatever the guest sees.
    pub(crate) accepted_msrs: Vec<u32>,
    /// Frequency of the time-stamp counter.
    pub(crate) tsc_khz: u32,
}

/// The states in KVM after power-on.
#[derive(Clone, Debug)]
pub(crate) struct PowerOn {
    pub(crate) vcpus: Vec<VcpuV1>,
    pub(crate) irqchip: IrqchipV1,
    pub(crate) pit: PitV1,
}

/// Why the board of a machine could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BoardError {
    /// KVM refused.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// No memory.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// A vCPU refused.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// More memory than the host has at all.
    #[error("The machine is to have {mib} MiB of memory, but this host has {host_mib} MiB: give it less")]
    MoreThanTheHost {
        /// Memory asked for.
        mib: u64,
        /// Memory of the host.
        host_mib: u64,
    },
    /// More huge pages than a control group lets it have.
    #[error(
        "The machine is to have {mib} MiB of huge pages, and its control group '{}' leaves it {left_mib} MiB of them, so that the kernel would          end it: raise hugetlb.2MB.max of the group (in Kubernetes: the limit hugepages-2Mi), or give the machine less",
        group.display()
    )]
    MoreThanTheGroup {
        /// Memory asked for.
        mib: u64,
        /// What the group has left.
        left_mib: u64,
        /// The control group.
        group: PathBuf,
    },
    /// The host's processor is less than the machine's.
    #[error(
        "The machine is to see the processor '{cpu}', of which this host lacks: {lacking}. Choose a lesser model (--cpu help), or take these \
         away (--cpu {cpu},-FEATURE)"
    )]
    Cpu {
        /// What was asked for.
        cpu: CpuModel,
        /// What is missing.
        lacking: String,
    },
    /// More vCPUs than KVM runs in one VM.
    #[error("The machine is to have {cpus} vCPUs, KVM of this host runs {limit} at most: give it fewer")]
    TooManyCpus {
        /// vCPUs asked for.
        cpus: u8,
        /// What KVM says.
        limit: usize,
    },
    /// The ring of a vCPU is out of reach.
    #[error("The dirty rings of the vCPUs cannot be mapped")]
    Rings(#[source] io::Error),
    /// A vCPU's thread could not be started.
    #[error("Cannot start a thread for vCPU {vcpu}")]
    Thread {
        /// Number of the vCPU.
        vcpu: u8,
        /// What the system said.
        source: io::Error,
    },
}

/// Why something could not be done with a vCPU.
#[derive(Debug, thiserror::Error)]
pub enum VcpuError {
    /// KVM refused.
    #[error("vCPU {vcpu} cannot be set up")]
    Refused {
        /// Number of the vCPU.
        vcpu: u8,
        /// Why.
        source: MsrError,
    },
    /// Its thread ended with a panic, which is on standard error.
    #[error("The thread of vCPU {vcpu} has died: this is a defect of the VMM, and the machine cannot go on")]
    Dead {
        /// Number of the vCPU.
        vcpu: u8,
    },
}

impl Board {
    /// Makes a VM with `cpus` vCPUs on `threads`, and `bytes` of memory.
    pub(crate) fn new(
        cpus: u8,
        bytes: u64,
        backing: Backing,
        dirty_log: DirtyLogKind,
        cpu: &CpuModel,
        events: &Events,
        threads: &VcpuThreads,
    ) -> Result<Self, BoardError> {
        check_host_memory(bytes)?;
        if backing == Backing::Hugetlb2M {
            check_group(bytes)?;
        }
        let hypervisor = Hypervisor::open(layout::IDENTITY_MAP, layout::KVM_TSS, ring_entries(dirty_log))?;
        let limit = hypervisor.kvm.get_max_vcpus();
        if usize::from(cpus) > limit {
            return Err(BoardError::TooManyCpus { cpus, limit });
        }
        let ram = Ram::allocate(&layout::blocks(bytes), backing)?;
        let slots = MemorySlots::plug(hypervisor.vm.clone(), ram.clone())?;
        let buses = Arc::new(RwLock::new(Arc::new(Buses::default())));
        let mut fds = create_vcpus(&hypervisor.vm, cpus)?;
        let processor = Processor::of_this_host(&hypervisor, &mut fds, cpu, bytes)?;
        let power_on = PowerOn::read(&hypervisor, &fds, &processor)?;
        let dirty_log = match ring_entries(dirty_log) {
            None => Tracking::Bits(Arc::new(KvmDirtyLog::new(slots, hypervisor.manual_protect))),
            Some(entries) => {
                let rings = DirtyRings::map(slots, &fds, entries).map_err(BoardError::Rings)?;
                Tracking::Rings(Arc::new(rings))
            }
        };
        let surroundings =
            Surroundings { buses: buses.clone(), events: events.clone(), rings: dirty_log.rings().cloned() };
        let vcpus = (0u8..).zip(fds).map(|(vcpu, fd)| {
            let spawned = Vcpu::spawn(vcpu, fd, surroundings.clone(), threads);
            spawned.map_err(|source| BoardError::Thread { vcpu, source })
        });
        let vcpus = vcpus.collect::<Result<_, _>>()?;
        Ok(Self { vcpus, buses, dirty_log, ram, hypervisor, processor, power_on })
    }

    /// Makes one call on every vCPU's thread, all at the same time. `each` hands out the calls.
    pub(crate) fn on_vcpus<T, C>(&self, mut each: impl FnMut(u8) -> C) -> Result<Vec<T>, VcpuError>
    where
        T: Send + 'static,
        C: FnOnce(&mut VcpuFd) -> Result<T, MsrError> + Send + 'static,
    {
        let numbered = || (0u8..).zip(&self.vcpus);
        let started: Vec<_> = numbered().map(|(index, vcpu)| vcpu.start(each(index))).collect();
        let finished = (0u8..).zip(started).map(|(vcpu, result)| match result.recv() {
            Ok(result) => result.map_err(|source| VcpuError::Refused { vcpu, source }),
            Err(_) => Err(VcpuError::Dead { vcpu }),
        });
        finished.collect()
    }

    /// The machine's time-stamp counter now. No vCPU may be running.
    pub(crate) fn tsc(&self) -> Result<u64, VcpuError> {
        let result = self.vcpus[0].start(|fd| arch::tsc(fd)).recv();
        result
            .map_err(|_| VcpuError::Dead { vcpu: 0 })?
            .map_err(|source| VcpuError::Refused { vcpu: 0, source })
    }
}

impl Processor {
    /// All that this host can offer and migrate of what the machine is to see. Gives the vCPUs their CPUID on the way, without which KVM does not know
    /// which registers they have.
    fn of_this_host(
        hypervisor: &Hypervisor,
        vcpus: &mut [VcpuFd],
        cpu: &CpuModel,
        bytes: u64,
    ) -> Result<Self, BoardError> {
        let cpus = u8::try_from(vcpus.len()).unwrap_or(layout::MAX_CPUS);
        let tsc_deadline = hypervisor.kvm.check_extension(Cap::TscDeadlineTimer);
        let mut cpuid = arch::for_guest(&arch::supported(&hypervisor.kvm)?, cpus, tsc_deadline);
        set_cpuid(&vcpus[0], &cpuid, 0)?;
        let accepted_msrs = arch::accepted(&hypervisor.kvm, &vcpus[0])?;
        arch::narrow(&mut cpuid, cpu, bytes)
            .map_err(|lacking| BoardError::Cpu { cpu: cpu.clone(), lacking: lacking.join(", ") })?;
        set_cpuid(&vcpus[0], &cpuid, 0)?;
        if !arch::takes_arch_capabilities(&vcpus[0]) {
            arch::without_arch_capabilities(&mut cpuid);
        }
        (0u8..).zip(&*vcpus).try_for_each(|(vcpu, fd)| set_cpuid(fd, &cpuid, vcpu))?;
        let msrs = arch::migratable(&hypervisor.kvm, &vcpus[0], &cpuid)?;
        let tsc_khz = vcpus[0].get_tsc_khz().trying("read the frequency of the time-stamp counter")?;
        Ok(Self { cpuid, msrs, accepted_msrs, tsc_khz })
    }
}

impl PowerOn {
    /// Forgets registers that a machine which came from elsewhere does not have.
    pub(crate) fn keep_only_msrs(&mut self, msrs: &[u32]) {
        self.vcpus.iter_mut().for_each(|vcpu| vcpu.keep_only_msrs(msrs));
    }

    fn read(hypervisor: &Hypervisor, vcpus: &[VcpuFd], processor: &Processor) -> Result<Self, BoardError> {
        let read = |(vcpu, fd)| {
            arch::save_vcpu(fd, &processor.msrs, hypervisor.xsave_bytes)
                .map_err(|source| VcpuError::Refused { vcpu, source })
        };
        Ok(Self {
            vcpus: (0u8..).zip(vcpus).map(read).collect::<Result<_, _>>()?,
            irqchip: IrqchipV1::save(&hypervisor.vm)?,
            pit: PitV1::save(&hypervisor.vm)?,
        })
    }
}

impl Tracking {
    /// The rings, where there are any.
    pub(crate) fn rings(&self) -> Option<&Arc<DirtyRings>> {
        match self {
            Self::Bits(_) => None,
            Self::Rings(rings) => Some(rings),
        }
    }
}

/// Entries of the dirty ring of each vCPU, where there are any.
fn ring_entries(dirty_log: DirtyLogKind) -> Option<u32> {
    match dirty_log {
        DirtyLogKind::Auto | DirtyLogKind::Bitmap => None,
        DirtyLogKind::Ring(entries) => Some(entries.get()),
    }
}

fn create_vcpus(vm: &VmFd, cpus: u8) -> Result<Vec<VcpuFd>, KvmError> {
    (0..cpus).map(|vcpu| vm.create_vcpu(vcpu.into()).trying("create a vCPU")).collect()
}

/// Gives vCPU number `vcpu` its CPUID.
pub(crate) fn set_cpuid(fd: &VcpuFd, template: &[CpuidEntry], vcpu: u8) -> Result<(), KvmError> {
    let cpuid = arch::to_kvm(&arch::for_vcpu(template, vcpu))?;
    fd.set_cpuid2(&cpuid).trying("set the processor features of a vCPU")
}

/// Memory is handed out when it is touched, so a machine that can never fit would start, and die later.
fn check_host_memory(bytes: u64) -> Result<(), BoardError> {
    let info = rustix::system::sysinfo();
    let host = info.totalram.saturating_add(info.totalswap).saturating_mul(info.mem_unit.into());
    if bytes > host {
        return Err(BoardError::MoreThanTheHost { mib: bytes >> 20, host_mib: host >> 20 });
    }
    Ok(())
}

/// The same of huge pages and what control groups allow.
fn check_group(bytes: u64) -> Result<(), BoardError> {
    match huge_page_limit::left() {
        Some(left) if left.bytes < bytes => Err(BoardError::MoreThanTheGroup {
            mib: bytes >> 20,
            left_mib: left.bytes >> 20,
            group: left.group,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::{
        arch::{BootFiles, boot_registers},
        events::MachineEvent,
        testing::{self, Capture, PATIENCE, guest},
    };

    /// Boots `code` on one vCPU, with a capturing device at the serial port's address.
    fn boot(code: &[u8]) -> (Board, Capture, std::sync::mpsc::Receiver<MachineEvent>) {
        let (events, received) = Events::channel();
        let board = Board::new(
            1,
            64 << 20,
            Backing::Anonymous,
            DirtyLogKind::Auto,
            &CpuModel::HOST,
            &events,
            &VcpuThreads::default(),
        )
        .unwrap();
        let capture = Capture::default();
        let mut buses = Buses::default();
        buses.ports.insert(0x3f8, 8, Arc::new(Mutex::new(capture.clone())));
        *board.buses.write() = Arc::new(buses);
        let entry = BootFiles::open(&testing::path(&guest(code)), None, &|| {})
            .unwrap()
            .load(board.ram.memory(), "")
            .unwrap();
        board.vcpus[0].start(move |fd| boot_registers(fd, Some(entry))).recv().unwrap().unwrap();
        (board, capture, received)
    }

    #[test]
    fn a_guest_runs_stops_and_runs_on() {
        if !testing::kvm_is_usable("a_guest_runs_stops_and_runs_on") {
            return;
        }
        // mov dx,0x3f8; again: inc al; out dx,al; jmp again
        let (board, capture, _events) = boot(&[0x66, 0xba, 0xf8, 0x03, 0xfe, 0xc0, 0xee, 0xeb, 0xfb]);
        let vcpu = &board.vcpus[0];
        let mut seen = 0;
        for _ in 0..20 {
            vcpu.run();
            capture.wait_for(|written| written.len() > seen + 10);
            vcpu.ask_to_stop();
            vcpu.wait_until_parked(None);
            let written = capture.wait_for(|_| true);
            let rax = vcpu.start(|fd| fd.get_regs().unwrap().rax).recv().unwrap();
            // Nothing is lost or repeated, and the last access is complete: the guest's counter agrees.
            assert!(written.iter().zip(1u8..=255).all(|(byte, expected)| seen > 200 || *byte == expected));
            assert!(
                matches!(rax as u8, last if last == *written.last().unwrap() || last == written.last().unwrap().wrapping_add(1))
            );
            seen = written.len();
        }
    }

    #[test]
    fn a_triple_fault_asks_for_a_reset() {
        if !testing::kvm_is_usable("a_triple_fault_asks_for_a_reset") {
            return;
        }
        // ud2, with no interrupt table
        let (board, _capture, events) = boot(&[0x0f, 0x0b]);
        board.vcpus[0].run();
        assert_eq!(events.recv_timeout(PATIENCE), Ok(MachineEvent::Reset));
        board.vcpus[0].wait_until_parked(None);
    }

    #[test]
    fn a_halted_vcpu_stops_at_once() {
        if !testing::kvm_is_usable("a_halted_vcpu_stops_at_once") {
            return;
        }
        // mov dx,0x3f8; out dx,al; again: hlt; jmp again
        let (board, capture, _events) = boot(&[0x66, 0xba, 0xf8, 0x03, 0xee, 0xf4, 0xeb, 0xfd]);
        board.vcpus[0].run();
        capture.wait_for(|written| !written.is_empty());
        board.vcpus[0].ask_to_stop();
        board.vcpus[0].wait_until_parked(None);
    }
}
