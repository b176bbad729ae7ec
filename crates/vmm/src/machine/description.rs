//! What a machine is, as both sides of a migration compare it before a page moves.

use config::{Config, Identity};
use devices::{
    balloon::Balloon,
    blk::{Blk, BlkV1, takes_blocks_of},
    i8042::I8042V1,
    input::Keyboard,
    net::{Mac, Net},
    power::PowerV1,
    rng::Rng,
    rtc::RtcV1,
    serial::SerialV1,
    virtio::{RING_FEATURES, VirtioDevice},
};
use serde::{Deserialize, Serialize};
use state::Schema;
use uuid::Uuid;

use super::{
    board::Board,
    boot_image::{self, BootDescription, BootImage},
    ids,
    resources::{HostResources, OpenDisk, OpenNet},
    workshop::Extras,
};
use crate::{
    arch::{ClockV1, CpuidEntry, IrqchipV1, PitV1, VcpuV1, cpu_reasons, is_reachable, xsave_bytes},
    events::RequestsV2,
};

/// A machine as its guest sees it, and by what it is known. All that a guest needs must be the same on the other side, or
/// at least as much; by what it is known may differ if the operator says so.
///
/// Guest memory and which devices there are, with the forms of their states, stand in the handshake itself, where the engine
/// compares them: each difference is told once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineDescription {
    /// What the machine is called.
    pub name: String,
    /// Its UUID, if it has one.
    pub uuid: Option<Uuid>,
    /// Number of vCPUs.
    pub cpus: u8,
    /// What vCPU 0 returns for CPUID; the others differ in their ids.
    pub cpuid: Vec<CpuidEntry>,
    /// Indices of the model-specific registers that are saved.
    pub msrs: Vec<u32>,
    /// Frequency of the time-stamp counter.
    pub tsc_khz: u32,
    /// Bytes of a vCPU's XSAVE area.
    pub xsave_bytes: u32,
    /// The disks in their order, as the guest knows them.
    pub disks: Vec<DiskDescription>,
    /// The permanent addresses of the network cards, in their order.
    pub macs: Vec<Mac>,
    /// The devices in the order of their states, vCPUs first.
    pub devices: Vec<DeviceDescription>,
    /// What a reboot starts; none at a destination that was started without a kernel.
    pub boot: Option<BootDescription>,
}

/// One device, and the form of its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceDescription {
    /// Id of the device.
    pub id: String,
    /// Kind of its state.
    pub kind: String,
    /// Version of its state.
    pub version: u32,
    /// Oldest version of its state that is read here.
    pub oldest: u32,
    /// What the guest may use of it; `None` if it is no virtio device.
    pub virtio: Option<VirtioDescription>,
}

/// A disk, as the guest knows it: what is in its state ([`BlkV1`]), but to be compared with a later release's too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskDescription {
    /// Size in sectors of 512 bytes.
    pub capacity_sectors: u64,
    /// Logical block size in bytes.
    pub block_bytes: u32,
    /// The guest must not write.
    pub read_only: bool,
    /// What the guest reads as the disk's serial number.
    pub serial: String,
}

/// What a virtio device offers its driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtioDescription {
    /// The features, those of the transport included.
    pub features: u64,
    /// The largest size of each queue.
    pub queue_sizes: Vec<u16>,
}

/// How a machine that is offered differs from the one that is described here. Every difference is a sentence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// Why its guest cannot run here.
    pub unfit: Vec<String>,
    /// By what it seems to be another machine.
    pub identity: Vec<(Identity, String)>,
}

/// How far two time-stamp counters may differ, in parts per million, where the host cannot scale them. NTP corrects a
/// clock by up to 500 ppm; QEMU and KVM use 250 ppm (Linux, `tsc_tolerance_ppm`).
const TSC_TOLERANCE_PPM: u64 = 250;

impl MachineDescription {
    /// The machine that is made of these parts.
    pub(crate) fn of(
        config: &Config,
        board: &Board,
        resources: &HostResources,
        extras: Extras,
        boot: Option<&BootImage>,
    ) -> Self {
        let cpus = u8::try_from(board.vcpus.len()).unwrap_or(u8::MAX);
        Self {
            name: config.name().as_str().into(),
            uuid: config.uuid(),
            cpus,
            cpuid: board.processor.cpuid.clone(),
            msrs: board.processor.msrs.clone(),
            tsc_khz: board.processor.tsc_khz,
            xsave_bytes: u32::try_from(board.hypervisor.xsave_bytes).unwrap_or(u32::MAX),
            disks: resources.disks.iter().map(|open| BlkV1::of(&open.disk, &open.serial).into()).collect(),
            macs: resources.nets.iter().map(|net| net.mac).collect(),
            devices: devices(cpus, resources, extras),
            boot: boot.map(BootImage::describe),
        }
    }

    /// How the machine described by `offered` differs from this one.
    pub(crate) fn differences(&self, offered: &Self, can_scale_tsc: bool) -> Differences {
        let mut unfit = Vec::new();
        // What is missing of it here, or there, is of no use to the guest and empty.
        if offered.xsave_bytes.min(xsave_bytes(&offered.cpuid)) > self.xsave_bytes {
            unfit.push(format!(
                "The guest uses {} bytes of its XSAVE area, and KVM keeps {} here: use processors of one kind, or a model that both have (--cpu)",
                xsave_bytes(&offered.cpuid), self.xsave_bytes
            ));
        }
        unfit.extend(cpu_reasons(&offered.cpuid, &self.cpuid));
        unfit.extend(self.msr_reason(offered));
        unfit.extend(self.tsc_reason(offered, can_scale_tsc));
        unfit.extend(boot_image::reasons(offered.boot.as_ref(), self.boot.as_ref()));
        let disks = || offered.disks.iter().zip(&self.disks).enumerate();
        unfit.extend(disks().flat_map(|(index, (theirs, ours))| disk_reasons(index, theirs, ours)));
        // Which may only be read, and which may be written, offer other features: that was said.
        let otherwise = |id: &str| {
            disks()
                .any(|(index, (theirs, ours))| theirs.read_only != ours.read_only && id == ids::disk(index))
        };
        unfit.extend(self.devices.iter().filter(|ours| !otherwise(&ours.id)).filter_map(|ours| {
            let theirs = offered.devices.iter().find(|theirs| theirs.id == ours.id)?;
            virtio_reason(&ours.id, theirs.virtio.as_ref()?, ours.virtio.as_ref()?)
        }));
        Differences { unfit, identity: self.other_identity(offered) }
    }

    fn other_identity(&self, offered: &Self) -> Vec<(Identity, String)> {
        let mut differences = Vec::new();
        if offered.name != self.name {
            let (theirs, ours) = (short(&offered.name), &self.name);
            let text = format!("The machine is called '{theirs}', this side was started for '{ours}'");
            differences.push((Identity::Name, text));
        }
        if offered.uuid != self.uuid {
            let print = |uuid: Option<Uuid>| uuid.map_or_else(|| "none".into(), |uuid| uuid.to_string());
            let (theirs, ours) = (print(offered.uuid), print(self.uuid));
            let text = format!("The machine's UUID is {theirs}, this side was started for {ours}");
            differences.push((Identity::Uuid, text));
        }
        for (index, (theirs, ours)) in offered.macs.iter().zip(&self.macs).enumerate() {
            if theirs != ours {
                let text = format!(
                    "The address of network card 'net{index}' is {}, this side was started for {}",
                    print_mac(*theirs),
                    print_mac(*ours)
                );
                differences.push((Identity::Mac, text));
            }
        }
        differences
    }

    fn msr_reason(&self, offered: &Self) -> Option<String> {
        let is_missed = |index: &&u32| !self.msrs.contains(index) && is_reachable(**index, &offered.cpuid);
        let missing: Vec<_> = offered.msrs.iter().filter(is_missed).collect();
        let shown: Vec<_> = missing.iter().take(SHOWN).map(|index| format!("{index:#x}")).collect();
        (!missing.is_empty()).then(|| {
            let (count, shown) = (missing.len(), shown.join(", "));
            format!("KVM here does not take {count} model-specific registers that the source saves: {shown}")
        })
    }

    fn tsc_reason(&self, offered: &Self, can_scale_tsc: bool) -> Option<String> {
        let (theirs, ours) = (u64::from(offered.tsc_khz), u64::from(self.tsc_khz));
        let too_far = theirs.abs_diff(ours) * 1_000_000 > ours * TSC_TOLERANCE_PPM;
        (too_far && !can_scale_tsc).then(|| {
            format!("The time-stamp counter runs at {theirs} kHz on the source and {ours} kHz here, and cannot be scaled")
        })
    }
}

/// How many items of a list that a peer sent are shown.
const SHOWN: usize = 16;

/// A name that a peer chose, as much of it as a message has room for.
fn short(name: &str) -> String {
    name.chars().take(63).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// All devices of such a machine, in the order of their states.
fn devices(cpus: u8, resources: &HostResources, extras: Extras) -> Vec<DeviceDescription> {
    let mut devices: Vec<_> = (0..cpus).map(|vcpu| device::<VcpuV1>(&ids::vcpu(vcpu))).collect();
    devices.extend([
        device::<IrqchipV1>(ids::IRQCHIP),
        device::<PitV1>(ids::PIT),
        device::<ClockV1>(ids::CLOCK),
        device::<RequestsV2>(ids::REQUESTS),
        device::<SerialV1>(ids::SERIAL),
        device::<RtcV1>(ids::RTC),
        device::<I8042V1>(ids::I8042),
        device::<PowerV1>(ids::POWER),
    ]);
    let disk = |open: &OpenDisk| Blk::features_of(open.disk.is_read_only());
    let disks = resources.disks.iter().enumerate();
    devices.extend(disks.map(|(index, open)| virtio::<Blk>(&ids::disk(index), disk(open))));
    let nets = resources.nets.iter().enumerate();
    let net = |open: &OpenNet| Net::features_on(&open.tap);
    devices.extend(nets.map(|(index, open)| virtio::<Net>(&ids::net(index), net(open))));
    devices.extend(extras.rng.then(|| virtio::<Rng>(ids::RNG, Rng::FEATURES)));
    devices.extend(extras.balloon.then(|| virtio::<Balloon>(ids::BALLOON, Balloon::FEATURES)));
    devices.extend(extras.keyboard.then(|| virtio::<Keyboard>(ids::KEYBOARD, Keyboard::FEATURES)));
    devices
}

impl From<BlkV1> for DiskDescription {
    fn from(BlkV1 { capacity_sectors, block_bytes, read_only, serial }: BlkV1) -> Self {
        Self { capacity_sectors, block_bytes, read_only, serial }
    }
}

fn device<S: Schema>(id: &str) -> DeviceDescription {
    DeviceDescription {
        id: id.into(),
        kind: S::KIND.into(),
        version: S::VERSION,
        oldest: S::OLDEST,
        virtio: None,
    }
}

fn virtio<D: VirtioDevice>(id: &str, features: u64) -> DeviceDescription {
    let virtio =
        VirtioDescription { features: features | RING_FEATURES, queue_sizes: D::QUEUE_SIZES.to_vec() };
    DeviceDescription { virtio: Some(virtio), ..device::<D::State>(id) }
}

/// Why a disk cannot go on as this one: what [`Blk::restore`] would refuse.
fn disk_reasons(index: usize, theirs: &DiskDescription, ours: &DiskDescription) -> Vec<String> {
    let (mut reasons, id) = (Vec::new(), ids::disk(index));
    if theirs.serial != ours.serial {
        reasons.push(format!(
            "The serial of disk '{id}' is '{}' on the source and '{}' here: give both sides the same serial",
            short(&theirs.serial),
            ours.serial
        ));
    }
    if theirs.capacity_sectors != ours.capacity_sectors {
        reasons.push(format!(
            "Disk '{id}' has {} sectors on the source and {} here: give both sides the same image, with the size \
             that the guest knows",
            theirs.capacity_sectors, ours.capacity_sectors
        ));
    }
    if theirs.read_only != ours.read_only {
        let which = if theirs.read_only { "on the source" } else { "here" };
        reasons.push(format!(
            "Disk '{id}' is read-only {which} and not on the other side: give both sides the same option"
        ));
    }
    if !takes_blocks_of(ours.block_bytes, theirs.block_bytes) {
        reasons.push(format!(
            "The guest uses blocks of {} bytes on disk '{id}', the image here needs {}: leave the direct option out",
            theirs.block_bytes, ours.block_bytes
        ));
    }
    reasons
}

/// Why a driver cannot go on with a device: it may use, now or later, what is not there.
fn virtio_reason(id: &str, theirs: &VirtioDescription, ours: &VirtioDescription) -> Option<String> {
    let missing = theirs.features & !ours.features;
    if missing != 0 {
        return Some(format!(
            "Device '{id}' offers the guest features {missing:#x} on the source that it cannot offer here: give it the same \
             host resources"
        ));
    }
    let (theirs, ours) = (&theirs.queue_sizes, &ours.queue_sizes);
    let fits = theirs.len() == ours.len() && theirs.iter().zip(ours).all(|(theirs, ours)| theirs <= ours);
    (!fits).then(|| {
        let theirs = &theirs[..theirs.len().min(SHOWN)];
        format!(
            "The queues of device '{id}' have up to {theirs:?} entries on the source, {ours:?} here: use the same release"
        )
    })
}

fn print_mac(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
