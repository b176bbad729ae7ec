use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use objects::VirtualMachineInstance;
use parking_lot::{Mutex, MutexGuard};

use super::foretold::Foretold;
use crate::{
    Config,
    folder::Folder,
    observe::{Vmm, VmmState},
};

/// What the agent's loop and those whom it serves share.
#[derive(Debug)]
pub(crate) struct Desk {
    node: String,
    directory: PathBuf,
    tls: PathBuf,
    /// VMMs as they were last seen.
    seen: Mutex<Vec<Seen>>,
    /// VMMs at whose console somebody is.
    consoles: Mutex<BTreeSet<String>>,
    /// Held while settings of a VMM are made and used: those of a migration and those of a forecast are not mixed.
    settings: Mutex<()>,
    foretold: Foretold,
}

/// A VMM as it was last seen.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// What it is called.
    pub(super) name: String,
    /// Its process.
    pub(super) process: Option<u32>,
    /// How it is, in one word.
    pub(super) state: &'static str,
    /// The instance that it runs, if an object says so.
    pub(super) instance: Option<Run>,
}

/// An instance that runs, as figures name it.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) namespace: String,
    pub(super) name: String,
    /// The names of its disks, in order.
    pub(super) disks: Vec<String>,
    /// The names of its network cards, in order.
    pub(super) interfaces: Vec<String>,
}

/// Somebody is at the console of a VMM.
pub(super) struct Seat {
    desk: Arc<Desk>,
    vmm: String,
}

impl Desk {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            node: config.name.clone(),
            directory: config.directory.clone(),
            tls: config.tls.clone(),
            seen: Mutex::default(),
            consoles: Mutex::default(),
            settings: Mutex::default(),
            foretold: Foretold::default(),
        }
    }

    /// Takes over what the agent sees.
    pub(crate) fn look(&self, vmms: &BTreeMap<String, Vmm>, instances: &[Arc<VirtualMachineInstance>]) {
        let of = |vmm: &str| {
            let is_its = |instance: &&Arc<VirtualMachineInstance>| {
                instance.status.as_ref().is_some_and(|status| {
                    status.vmm.as_deref() == Some(vmm) && status.node_name.as_ref() == Some(&self.node)
                })
            };
            let instance = instances.iter().find(is_its)?;
            let devices = &instance.spec.domain.devices;
            Some(Run {
                namespace: instance.metadata.namespace.clone()?,
                name: instance.metadata.name.clone()?,
                disks: devices.disks.iter().map(|disk| disk.name.clone()).collect(),
                interfaces: devices.interfaces.iter().map(|card| card.name.clone()).collect(),
            })
        };
        let seen = vmms.iter().map(|(name, vmm)| Seen {
            name: name.clone(),
            process: vmm.process,
            state: match vmm.state {
                VmmState::Prepared => "prepared",
                VmmState::Silent => "silent",
                VmmState::Up { .. } => "up",
                VmmState::Ended { .. } => "ended",
            },
            instance: of(name),
        });
        *self.seen.lock() = seen.collect();
    }

    /// Held while a VMM is given settings and told to use them.
    pub(crate) fn settings(&self) -> MutexGuard<'_, ()> {
        self.settings.lock()
    }

    pub(super) fn foretold(&self) -> &Foretold {
        &self.foretold
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }

    pub(super) fn node(&self) -> &str {
        &self.node
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn tls(&self) -> &Path {
        &self.tls
    }

    pub(super) fn folder(&self, vmm: &str) -> Option<Folder> {
        Folder::new(&self.directory, vmm)
    }

    /// Sits down at a console, where nobody is yet.
    pub(super) fn sit(self: &Arc<Self>, vmm: &str) -> Option<Seat> {
        let is_free = self.consoles.lock().insert(vmm.to_owned());
        is_free.then(|| Seat { desk: self.clone(), vmm: vmm.to_owned() })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.desk.consoles.lock().remove(&self.vmm);
    }
}
