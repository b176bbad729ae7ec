//! What the VMMs of this host say of themselves.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::{Duration, Instant},
};

use monitor::{
    Client,
    types::{MigrationInfo, RunState},
};

use crate::{
    Config,
    folder::{Attempt, Folder, vmm_folders},
    process,
};

/// How long a monitor may take to reply. It never waits for the machine, so this is long.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a monitor that failed is left alone.
const REST: Duration = Duration::from_millis(100);

/// A VMM as it was seen.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Vmm {
    /// How it is.
    pub(crate) state: VmmState,
    /// The id of its process.
    pub(crate) process: Option<u32>,
    /// The migration that it was last told to do, or was about to be.
    pub(crate) attempt: Option<Attempt>,
}

/// How a VMM is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum VmmState {
    /// Described, and never started.
    Prepared,
    /// Its process runs, and its monitor does not reply: it begins, ends, or hangs.
    Silent,
    /// It says this.
    Up {
        /// The state of the machine.
        run: RunState,
        /// What it knows of a migration, away from or to it.
        migration: Box<MigrationInfo>,
    },
    /// It was started, and there is no process.
    Ended {
        /// Its last words.
        words: String,
        /// Whether it ended well; `None` where nobody was there to see.
        success: Option<bool>,
    },
}

/// Looks at VMMs, over connections that are kept.
#[derive(Debug)]
pub(crate) struct Observer {
    config: Config,
    clients: BTreeMap<String, Client>,
    failed: BTreeMap<String, Instant>,
    /// Processes that were found, so that not all processes of the host are looked at each time.
    processes: BTreeMap<String, u32>,
    /// VMMs that have ended: what was started once is not started again.
    ended: BTreeSet<String>,
    /// VMMs that could not be started, and why.
    unable: BTreeMap<String, String>,
}

impl Observer {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            config: config.clone(),
            clients: BTreeMap::new(),
            failed: BTreeMap::new(),
            processes: BTreeMap::new(),
            ended: BTreeSet::new(),
            unable: BTreeMap::new(),
        }
    }

    /// All VMMs that there are, by the names of their folders.
    pub(crate) fn look(&mut self) -> BTreeMap<String, Vmm> {
        let names = vmm_folders(&self.config.directory).unwrap_or_else(|error| {
            tracing::warn!(%error, "Cannot look for VMMs");
            Vec::new()
        });
        self.clients.retain(|name, _| names.contains(name));
        self.processes.retain(|name, _| names.contains(name));
        self.ended.retain(|name| names.contains(name));
        let mut running = None;
        let mut seen = BTreeMap::new();
        for name in names {
            let Some(folder) = Folder::new(&self.config.directory, &name) else { continue };
            let process = self.process(&name, &folder, &mut running);
            let state = match process {
                Some(_) => self.ask(&name),
                None if folder.mark().exists() => {
                    VmmState::Ended { words: folder.last_words(), success: folder.success() }
                }
                None => VmmState::Prepared,
            };
            seen.insert(name, Vmm { state, process, attempt: folder.attempt() });
        }
        for (name, words) in &self.unable {
            let state = VmmState::Ended { words: words.clone(), success: Some(false) };
            seen.insert(name.clone(), Vmm { state, process: None, attempt: None });
        }
        seen
    }

    /// The process of a VMM, found among all of the host's if it is not known yet.
    fn process(
        &mut self,
        name: &str,
        folder: &Folder,
        running: &mut Option<BTreeMap<PathBuf, u32>>,
    ) -> Option<u32> {
        let description = folder.description();
        if let Some(id) = self.processes.get(name).copied() {
            if process::description_of(id).as_deref() == Some(&*description) {
                return Some(id);
            }
            self.processes.remove(name);
        }
        if self.ended.contains(name) || !folder.mark().exists() {
            return None;
        }
        let found = running.get_or_insert_with(process::running).get(&description).copied();
        match found {
            Some(id) => self.processes.insert(name.to_owned(), id).map_or((), drop),
            None => drop(self.ended.insert(name.to_owned())),
        }
        found
    }

    /// A VMM could not be started, and will not be.
    pub(crate) fn give_up(&mut self, name: &str, why: String) {
        self.unable.insert(name.to_owned(), why);
    }

    /// A VMM's folder is gone.
    pub(crate) fn forget(&mut self, name: &str) {
        self.unable.remove(name);
    }

    /// The connection to a VMM's monitor, if it can be had.
    pub(crate) fn client(&mut self, name: &str) -> Option<&mut Client> {
        if !self.clients.contains_key(name) {
            let folder = Folder::new(&self.config.directory, name)?;
            if self.failed.get(name).is_some_and(|failed| failed.elapsed() < REST)
                || !folder.monitor().exists()
            {
                return None;
            }
            match Client::connect(&folder.monitor(), PATIENCE) {
                Ok(client) => {
                    self.failed.remove(name);
                    self.clients.insert(name.to_owned(), client);
                }
                Err(_) => {
                    self.failed.insert(name.to_owned(), Instant::now());
                    return None;
                }
            }
        }
        self.clients.get_mut(name)
    }

    fn ask(&mut self, name: &str) -> VmmState {
        let Some(client) = self.client(name) else { return VmmState::Silent };
        let said = client.query_status().and_then(|status| Ok((status.status, client.query_migrate()?)));
        match said {
            Ok((run, migration)) => VmmState::Up { run, migration: Box::new(migration) },
            Err(error) => {
                tracing::debug!(name, %error, "A monitor does not reply");
                self.clients.remove(name);
                self.failed.insert(name.to_owned(), Instant::now());
                VmmState::Silent
            }
        }
    }
}
