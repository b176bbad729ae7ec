//! Whether a machine can run on a node, with every reason why not.

use std::{collections::BTreeMap, fmt};

use objects::VirtualMachineInstance;

use crate::{
    World, affinity, behind,
    index::{Index, Room, is_huge},
    processor,
};

pub use crate::{apart::Apart, behind::Absent, kubelet::is_ready, processor::Unsuitable, world::memory_of};

/// One reason why a machine cannot run on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// Its agent is not heard of.
    NotReady,
    /// Nothing new shall come here.
    Cordoned,
    /// The machine runs there already.
    IsThere,
    /// A label that is asked for is another one, or is missing.
    Label {
        /// Its name.
        name: String,
        /// What is asked for.
        wanted: String,
        /// What the node has.
        found: Option<String>,
    },
    /// No term of its `affinity` holds.
    Affinity,
    /// There is too little memory; of huge pages where the machine wants these.
    Memory {
        /// Bytes that it needs.
        needed: u64,
        /// Bytes that nobody has.
        free: u64,
        /// Whether it is about huge pages.
        huge: bool,
    },
    /// There are too few processors for a machine of this size.
    Cpus {
        /// That it has.
        needed: u64,
        /// That the node has.
        there: u64,
    },
    /// Its processor will not do.
    Processor(Unsuitable),
    /// It lacks something that is behind a device.
    Behind(Absent),
    /// It is not on the network of migrations.
    Apart(Apart),
    /// The node that the machine runs on is not.
    SourceApart(Apart),
    /// As many migrations as may come are coming.
    InboundLimit(u32),
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotReady => f.write_str("its agent is not heard of"),
            Self::Cordoned => f.write_str("it is cordoned"),
            Self::IsThere => f.write_str("the machine runs there"),
            Self::Label { name, wanted, found: None } => write!(f, "it has no label {name}={wanted}"),
            Self::Label { name, wanted, found: Some(found) } => {
                write!(f, "its label {name} is {found}, not {wanted}")
            }
            Self::Affinity => f.write_str("its labels are not what the machine's affinity asks for"),
            Self::Memory { needed, free, huge } => {
                let what = if *huge { "memory in huge pages" } else { "memory" };
                write!(f, "{} MiB of {what} are free, {} MiB are needed", free >> 20, needed >> 20)
            }
            Self::Cpus { needed, there } => write!(f, "it has {there} processors, {needed} are needed"),
            Self::Processor(why) => why.fmt(f),
            Self::Behind(what) => what.fmt(f),
            Self::Apart(apart) => apart.as_target(f),
            Self::SourceApart(apart) => apart.as_source(f),
            Self::InboundLimit(limit) => write!(f, "{limit} migrations come there already"),
        }
    }
}

/// How a machine fits on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fit {
    /// The node.
    pub node: String,
    /// Why not; it fits if there is nothing here.
    pub misfits: Vec<Misfit>,
    /// Bytes of memory that are free there now.
    pub free: u64,
    /// Whether a drain will empty it, so that it is chosen only where no other node fits.
    pub is_leaving: bool,
    /// Whether its processor lacks something of the one that the machine runs on and no model says what the guest sees, so that it is chosen
    /// only where no other node fits: the migration may be refused.
    pub is_lesser: bool,
    /// How much the machine would like this one, by its affinity.
    pub preference: u32,
}

/// How a machine fits on each node, with labels that are asked for beside its own.
pub fn fits(world: &World, instance: &VirtualMachineInstance, added: &BTreeMap<String, String>) -> Vec<Fit> {
    fits_in(&Index::new(world), instance, added)
}

/// The same, where there is an index.
pub(crate) fn fits_in(
    index: &Index<'_>,
    instance: &VirtualMachineInstance,
    added: &BTreeMap<String, String>,
) -> Vec<Fit> {
    let here = room_of(index, instance);
    index.rooms.iter().map(|room| fit(room, instance, here, added)).collect()
}

/// The node that a machine runs on.
pub(crate) fn room_of<'i, 'a>(
    index: &'i Index<'a>,
    instance: &VirtualMachineInstance,
) -> Option<&'i Room<'a>> {
    let name = instance.status.as_ref().and_then(|status| status.node_name.as_deref())?;
    index.room(name)
}

/// Whether a machine, which may run on the node `here`, fits on another: as [`fits`], without the reasons.
pub(crate) fn is_fit(
    room: &Room<'_>,
    instance: &VirtualMachineInstance,
    here: Option<&Room<'_>>,
    added: &BTreeMap<String, String>,
) -> bool {
    room.is_ready
        && !room.is_cordoned
        && memory_of(instance) <= room.free(is_huge(instance))
        && u64::from(instance.spec.domain.cpu.cores) <= room.cpus
        && instance.status.as_ref().and_then(|status| status.node_name.as_deref()) != Some(room.name)
        && instance.spec.node_selector.iter().chain(added).all(|(label, wanted)| {
            room.node.metadata.labels.as_ref().and_then(|labels| labels.get(label)) == Some(wanted)
        })
        && here.is_none_or(|here| here.apart.is_none() && room.apart.is_none())
        && processor::unsuitable(instance, here.map(|here| here.node), room.node).is_empty()
        && behind::absent(instance, room.node, room.places.as_deref()).next().is_none()
        && affinity::is_allowed(instance, labels_of(room))
}

fn fit(
    room: &Room<'_>,
    instance: &VirtualMachineInstance,
    here: Option<&Room<'_>>,
    added: &BTreeMap<String, String>,
) -> Fit {
    let mut misfits = Vec::new();
    if !room.is_ready {
        misfits.push(Misfit::NotReady);
    }
    if room.is_cordoned {
        misfits.push(Misfit::Cordoned);
    }
    if instance.status.as_ref().and_then(|status| status.node_name.as_deref()) == Some(room.name) {
        misfits.push(Misfit::IsThere);
    }
    for (label, wanted) in instance.spec.node_selector.iter().chain(added) {
        let found = room.node.metadata.labels.as_ref().and_then(|labels| labels.get(label));
        if found != Some(wanted) {
            misfits.push(Misfit::Label {
                name: label.clone(),
                wanted: wanted.clone(),
                found: found.cloned(),
            });
        }
    }
    if !affinity::is_allowed(instance, labels_of(room)) {
        misfits.push(Misfit::Affinity);
    }
    let huge = is_huge(instance);
    let (needed, free) = (memory_of(instance), room.free(huge));
    if needed > free {
        misfits.push(Misfit::Memory { needed, free, huge });
    }
    let cores = u64::from(instance.spec.domain.cpu.cores);
    // More machines than processors is a matter of taste, a machine with more of them than its node has is not.
    if cores > room.cpus {
        misfits.push(Misfit::Cpus { needed: cores, there: room.cpus });
    }
    // A machine that starts needs no network of migrations, nor does one that stays.
    if let Some(here) = here.filter(|here| here.name != room.name) {
        misfits.extend(here.apart.clone().map(Misfit::SourceApart));
        misfits.extend(room.apart.clone().map(Misfit::Apart));
    }
    let here = here.map(|here| here.node);
    misfits.extend(processor::unsuitable(instance, here, room.node).into_iter().map(Misfit::Processor));
    misfits.extend(behind::absent(instance, room.node, room.places.as_deref()).map(Misfit::Behind));
    let preference = affinity::preference(instance, labels_of(room));
    Fit {
        node: room.name.to_owned(),
        misfits,
        free,
        is_leaving: room.is_leaving,
        is_lesser: processor::is_lesser(instance, here, room.node),
        preference,
    }
}

/// The labels of a node.
pub(crate) fn labels_of<'a>(room: &Room<'a>) -> &'a BTreeMap<String, String> {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    room.node.metadata.labels.as_ref().unwrap_or(&NONE)
}

/// Nodes that a sentence names with their reasons; the others are counted, so that it has a length.
const EXPLAINED: usize = 10;

/// Every node with all its reasons, as one sentence; of many the first 10.
pub fn explain(fits: &[Fit]) -> String {
    if fits.is_empty() {
        return "There are no nodes.".to_owned();
    }
    let nodes = fits.iter().take(EXPLAINED).map(|fit| {
        let reasons: Vec<_> = fit.misfits.iter().map(ToString::to_string).collect();
        format!("{}: {}", fit.node, if reasons.is_empty() { "fits".to_owned() } else { reasons.join(", ") })
    });
    let nodes = nodes.collect::<Vec<_>>().join("; ");
    match fits.len().saturating_sub(EXPLAINED) {
        0 => format!("{nodes}."),
        others => format!("{nodes}; and {others} more nodes."),
    }
}
