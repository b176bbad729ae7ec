//! What a machine is, as both sides of a migration compare it before a page moves.

use devices::{
    balloon::BalloonV1, blk::BlkV1, i8042::I8042V1, input::KeyboardV1, net::NetV1, power::PowerV1,
    rng::RngV1, rtc::RtcV1, serial::SerialV1,
};
use ram::PAGE_SIZE;
use serde::{Deserialize, Serialize};
use state::Schema;

use super::{
    board::Board,
    resources::HostResources,
    save::{CLOCK, IRQCHIP, PIT, REQUESTS, vcpu_id},
    workshop::Extras,
};
use crate::{
    arch::{ClockV1, CpuidEntry, IrqchipV1, PitV1, VcpuV1, cpu_reasons},
    events::RequestsV1,
};

/// A machine as its guest sees it. Everything in it must fit on the other side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineDescription {
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
    /// Bytes of a page.
    pub page_bytes: u32,
    /// Guest memory.
    pub memory: Vec<MemoryDescription>,
    /// The devices in the order of their states, vCPUs first.
    pub devices: Vec<DeviceDescription>,
}

/// One block of guest memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryDescription {
    /// Name of the block.
    pub name: String,
    /// First guest-physical address.
    pub guest_address: u64,
    /// Size in bytes.
    pub bytes: u64,
}

/// One device, and the form of its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceDescription {
    /// Id of the device.
    pub id: String,
    /// Kind of its state.
    pub kind: String,
    /// Version of its state.
    pub version: u32,
}

/// How far two time-stamp counters may differ, in parts per million, where the host cannot scale them. NTP corrects a
/// clock by up to 500 ppm; QEMU and KVM use 250 ppm (Linux, `tsc_tolerance_ppm`).
const TSC_TOLERANCE_PPM: u64 = 250;

impl MachineDescription {
    /// The machine that is made of these parts.
    pub(crate) fn of(board: &Board, resources: &HostResources, extras: Extras) -> Self {
        let cpus = u8::try_from(board.vcpus.len()).unwrap_or(u8::MAX);
        let mut devices: Vec<_> = (0..cpus).map(|vcpu| device::<VcpuV1>(&vcpu_id(vcpu))).collect();
        devices.extend([
            device::<IrqchipV1>(IRQCHIP),
            device::<PitV1>(PIT),
            device::<ClockV1>(CLOCK),
            device::<RequestsV1>(REQUESTS),
            device::<SerialV1>("serial0"),
            device::<RtcV1>("rtc0"),
            device::<I8042V1>("i8042"),
            device::<PowerV1>("power0"),
        ]);
        devices.extend((0..resources.disks.len()).map(|index| device::<BlkV1>(&format!("disk{index}"))));
        devices.extend((0..resources.nets.len()).map(|index| device::<NetV1>(&format!("net{index}"))));
        devices.extend(extras.rng.then(|| device::<RngV1>("rng0")));
        devices.extend(extras.balloon.then(|| device::<BalloonV1>("balloon0")));
        devices.extend(extras.keyboard.then(|| device::<KeyboardV1>("keyboard0")));
        Self {
            cpus,
            cpuid: board.processor.cpuid.clone(),
            msrs: board.processor.msrs.clone(),
            tsc_khz: board.processor.tsc_khz,
            xsave_bytes: u32::try_from(board.hypervisor.xsave_bytes).unwrap_or(u32::MAX),
            page_bytes: PAGE_SIZE as u32,
            memory: board.ram.blocks().iter().map(MemoryDescription::from).collect(),
            devices,
        }
    }

    /// Every reason why the machine described by `offered` cannot move here. None: it can.
    pub(crate) fn reasons(&self, offered: &Self, can_scale_tsc: bool) -> Vec<String> {
        let mut reasons = Vec::new();
        let mut differ = |what: &str, theirs: u64, ours: u64| {
            if theirs != ours {
                reasons.push(format!("The source has {theirs} {what}, this side has {ours}"));
            }
        };
        differ("vCPUs", offered.cpus.into(), self.cpus.into());
        differ("bytes per page", offered.page_bytes.into(), self.page_bytes.into());
        differ("bytes in a vCPU's XSAVE area", offered.xsave_bytes.into(), self.xsave_bytes.into());
        reasons.extend(self.memory_reasons(offered));
        reasons.extend(self.device_reasons(offered));
        reasons.extend(cpu_reasons(&offered.cpuid, &self.cpuid));
        reasons.extend(self.msr_reason(offered));
        reasons.extend(self.tsc_reason(offered, can_scale_tsc));
        reasons
    }

    fn memory_reasons(&self, offered: &Self) -> Option<String> {
        let print = |blocks: &[MemoryDescription]| {
            let block = |block: &MemoryDescription| {
                format!("{} {} MiB at {:#x}", short(&block.name), block.bytes >> 20, block.guest_address)
            };
            blocks.iter().take(SHOWN).map(block).collect::<Vec<_>>().join(", ")
        };
        (self.memory != offered.memory).then(|| {
            let (theirs, ours) = (print(&offered.memory), print(&self.memory));
            format!("The memory of the source is {theirs}, of this side {ours}")
        })
    }

    fn device_reasons(&self, offered: &Self) -> Vec<String> {
        let mut reasons = Vec::new();
        for theirs in &offered.devices {
            let (id, kind, version) = (short(&theirs.id), short(&theirs.kind), theirs.version);
            match self.devices.iter().find(|ours| ours.id == theirs.id) {
                None => reasons.push(format!("The source has a device '{id}' ({kind}), this side has not")),
                Some(ours) if ours.kind != theirs.kind => {
                    reasons.push(format!("Device '{id}' is a {kind} on the source, a {} on this side", ours.kind));
                }
                Some(ours) if ours.version != version => reasons.push(format!(
                    "The state of device '{id}' has version {version} on the source, {} on this side: use the same release",
                    ours.version
                )),
                Some(_) => {}
            }
            if reasons.len() > SHOWN {
                return reasons;
            }
        }
        let unknown =
            self.devices.iter().filter(|ours| offered.devices.iter().all(|theirs| theirs.id != ours.id));
        reasons.extend(
            unknown.map(|ours| {
                format!("This side has a device '{}' ({}), the source has not", ours.id, ours.kind)
            }),
        );
        if reasons.is_empty() && self.devices != offered.devices {
            reasons.push("The devices of the source are in another order, or named twice".into());
        }
        reasons
    }

    fn msr_reason(&self, offered: &Self) -> Option<String> {
        let missing: Vec<_> = offered.msrs.iter().filter(|index| !self.msrs.contains(index)).collect();
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
    name.chars().take(32).collect()
}

fn device<S: Schema>(id: &str) -> DeviceDescription {
    DeviceDescription { id: id.into(), kind: S::KIND.into(), version: S::VERSION }
}

impl From<&ram::Block> for MemoryDescription {
    fn from(block: &ram::Block) -> Self {
        Self { name: block.name().into(), guest_address: block.guest_address(), bytes: block.bytes() }
    }
}
