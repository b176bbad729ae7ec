//! What the VMMs of this host say of themselves.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use monitor::{
    Client,
    types::{MigrationInfo, RunState},
};

use crate::{
    Config,
    folder::{Folder, vmm_folders},
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
    /// UID of the migration that it was last told to do, or was about to be.
    pub(crate) attempt: Option<String>,
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
}

impl Observer {
    pub(crate) fn new(config: &Config) -> Self {
        Self { config: config.clone(), clients: BTreeMap::new(), failed: BTreeMap::new() }
    }

    /// All VMMs that there are, by the names of their folders.
    pub(crate) fn look(&mut self) -> BTreeMap<String, Vmm> {
        let names = vmm_folders(&self.config.directory).unwrap_or_else(|error| {
            tracing::warn!(%error, "Cannot look for VMMs");
            Vec::new()
        });
        self.clients.retain(|name, _| names.contains(name));
        let running = process::running();
        let seen = names.into_iter().filter_map(|name| {
            let folder = Folder::new(&self.config.directory, &name)?;
            let process = running.get(&folder.description()).copied();
            let state = match process {
                Some(_) => self.ask(&name),
                None if folder.mark().exists() => {
                    VmmState::Ended { words: folder.last_words(), success: folder.success() }
                }
                None => VmmState::Prepared,
            };
            let attempt = fs::read_to_string(folder.attempt()).ok();
            Some((name, Vmm { state, process, attempt }))
        });
        seen.collect()
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
