//! Doing what was decided: files, processes, QMP commands and writes to the API.

use std::{
    collections::BTreeMap,
    fs, io,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use monitor::ClientError;
use objects::{
    FailureReason, VMM_FINALIZER, VirtualMachineInstance, VirtualMachineInstanceMigration, set_condition,
};
use serde_json::{Value, json};
use tokio::{runtime::Handle, time::timeout};
use tracing::span::EnteredSpan;

use crate::{
    Config,
    arrivals::Arrival,
    decide::{Action, condition, failed},
    folder::{Attempt, Folder, Incoming, Kit},
    observe::Observer,
    process,
    seeds::{self, SeedError},
    serve::Desk,
    settings::{Allowed, channels},
    tap::{self, Tap},
};

/// How long a write may take. It is decided again.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long nothing is done about a VMM after something failed.
const REST: Duration = Duration::from_secs(1);
/// How often progress is written at most.
const PROGRESS: Duration = Duration::from_secs(1);
/// How often is said that a machine runs which no object knows.
const WONDER: Duration = Duration::from_secs(600);

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ActError {
    #[error("Cannot prepare the VMM {vmm}")]
    Files { vmm: String, source: io::Error },
    #[error("The VMM {vmm} cannot be commanded")]
    Monitor { vmm: String, source: ClientError },
    #[error("Cannot write {what}")]
    Api { what: String, source: Box<kube::Error> },
    #[error("Writing {what} takes too long")]
    Slow { what: String },
    #[error("{name} cannot be the name of a VMM")]
    Name { name: String },
    #[error("The VMM {vmm} waits for settings of its guest: {why}")]
    Settings { vmm: String, why: SeedError },
    #[error("The VMM {vmm} has nowhere to be reached: {why}")]
    Unreachable { vmm: String, why: String },
}

/// Does things, and knows when it last did some.
pub(crate) struct Actor {
    config: Config,
    desk: Arc<Desk>,
    client: Client,
    handle: Handle,
    /// Where machines come to this node.
    arrival: Arrival,
    /// When progress of a migration was last written, by its UID.
    progress: BTreeMap<String, Instant>,
    wondered: BTreeMap<String, Instant>,
    /// When a VMM was last told something.
    told: BTreeMap<(String, &'static str), Instant>,
    /// When something last failed that was about a VMM.
    failed: BTreeMap<String, Instant>,
}

impl Actor {
    pub(crate) fn new(config: &Config, desk: Arc<Desk>, client: &Client, handle: &Handle) -> Self {
        let arrival = Arrival::without_network(config);
        let (config, client, handle) = (config.clone(), client.clone(), handle.clone());
        Self {
            config,
            desk,
            client,
            handle,
            arrival,
            progress: BTreeMap::new(),
            wondered: BTreeMap::new(),
            told: BTreeMap::new(),
            failed: BTreeMap::new(),
        }
    }

    /// From now on machines come to this node there.
    pub(crate) fn hear(&mut self, arrival: Arrival) {
        self.arrival = arrival;
    }

    /// Does what was decided. What fails is said, and left alone for a moment: it is decided again.
    pub(crate) fn act(&mut self, action: &Action, observer: &mut Observer) {
        let _about = action.migration().map(about);
        let vmm = action.vmm();
        if vmm.is_some_and(|vmm| self.failed.get(vmm).is_some_and(|failed| failed.elapsed() < REST)) {
            return;
        }
        if let Err(error) = self.try_to(action, observer) {
            // That a machine waits for settings is said when it begins to.
            if !matches!(error, ActError::Settings { .. }) {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(node = self.config.name, %error, source, "Not done; it is tried again");
            }
            self.failed.retain(|_, failed| failed.elapsed() < REST);
            self.failed.extend(vmm.map(|vmm| (vmm.to_owned(), Instant::now())));
        }
    }

    fn try_to(&mut self, action: &Action, observer: &mut Observer) -> Result<(), ActError> {
        match action {
            Action::Start { vmm, instance, from, .. } => {
                let outcome = self.start(vmm, instance, from.as_deref());
                match &outcome {
                    Err(ActError::Files { source, .. }) => observer.give_up(vmm, source.to_string()),
                    // A migration does not wait for somebody to make a Secret, a machine does.
                    Err(ActError::Settings { why, .. }) if from.is_some() => {
                        observer.give_up(vmm, why.to_string());
                    }
                    Err(ActError::Settings { why, .. }) => self.wait_for(instance, why)?,
                    Err(ActError::Unreachable { why, .. }) => observer.give_up(vmm, why.clone()),
                    _ => {}
                }
                outcome
            }
            Action::Migrate { vmm, migration } => self.migrate(vmm, migration, observer),
            Action::Tell { vmm, what, .. } => self.tell(observer, vmm, what.command()),
            Action::Quit { vmm, process } => self.quit(vmm, *process, observer),
            Action::Remove { vmm } => {
                self.remove(vmm)?;
                observer.forget(vmm);
                Ok(())
            }
            Action::SetInstance(instance) => {
                let api: Api<VirtualMachineInstance> = self.api(instance.namespace());
                let write = async {
                    api.replace_status(&instance.name_any(), &PostParams::default(), instance).await
                };
                self.write(&instance.name_any(), write)
            }
            Action::SetMigration { migration, is_progress } => self.set_migration(migration, *is_progress),
            Action::Release(instance) => {
                let api: Api<VirtualMachineInstance> = self.api(instance.namespace());
                let others: Vec<_> =
                    instance.finalizers().iter().filter(|name| *name != VMM_FINALIZER).collect();
                let patch = json!({ "metadata": { "finalizers": others, "resourceVersion": instance.resource_version() } });
                let patch = Patch::Merge(patch);
                let write = async { api.patch(&instance.name_any(), &PatchParams::default(), &patch).await };
                self.write(&instance.name_any(), write)
            }
            Action::Wonder { vmm } => {
                let told = self.wondered.get(vmm);
                if told.is_none_or(|told| told.elapsed() > WONDER) {
                    tracing::warn!(vmm, "A machine runs here that no object knows: it is left alone");
                    self.wondered.insert(vmm.clone(), Instant::now());
                }
                Ok(())
            }
        }
    }

    fn folder(&self, vmm: &str) -> Result<Folder, ActError> {
        Folder::new(&self.config.directory, vmm).ok_or_else(|| ActError::Name { name: vmm.to_owned() })
    }

    fn start(
        &self,
        vmm: &str,
        instance: &VirtualMachineInstance,
        from: Option<&str>,
    ) -> Result<(), ActError> {
        let folder = self.folder(vmm)?;
        let wrong = |source| ActError::Files { vmm: vmm.to_owned(), source };
        let seeds = seeds::of(&self.client, &self.handle, instance)
            .map_err(|why| ActError::Settings { vmm: vmm.to_owned(), why })?;
        let incoming = from.map(|source| {
            let address = self.arrival.address.clone();
            let address = address.map_err(|why| ActError::Unreachable { vmm: vmm.to_owned(), why })?;
            Ok(Incoming { source, address })
        });
        let incoming = incoming.transpose()?;
        let taps = taps(&folder, instance).map_err(wrong)?;
        let kit = Kit { seeds, taps };
        folder.prepare(&self.config, instance, incoming, &kit).map_err(wrong)?;
        process::start(&self.config.vmm, &folder, self.config.cgroup.as_deref(), kit.taps).map_err(wrong)?;
        tracing::info!(node = self.config.name, vmm, from, "A VMM was started");
        Ok(())
    }

    /// Says what a machine waits for.
    fn wait_for(&self, instance: &VirtualMachineInstance, why: &SeedError) -> Result<(), ActError> {
        let mut waiting = instance.clone();
        let conditions = &mut waiting.status.get_or_insert_default().conditions;
        let condition = condition("Ready", false, "WaitsForSettings", why.to_string());
        set_condition(conditions, condition, &Time(jiff::Timestamp::now()));
        if waiting.status == instance.status {
            return Ok(());
        }
        tracing::info!(node = self.config.name, instance = instance.name_any(), %why, "A machine waits for settings");
        let api: Api<VirtualMachineInstance> = self.api(instance.namespace());
        let write =
            async { api.replace_status(&instance.name_any(), &PostParams::default(), &waiting).await };
        self.write(&instance.name_any(), write)
    }

    fn migrate(
        &mut self,
        vmm: &str,
        migration: &VirtualMachineInstanceMigration,
        observer: &mut Observer,
    ) -> Result<(), ActError> {
        let uid = migration.uid().unwrap_or_default();
        let folder = self.folder(vmm)?;
        if folder.attempt().is_none_or(|attempt| attempt.uid != uid) {
            let attempt = Attempt { uid, before: session(observer, vmm)? };
            folder.note(&attempt).map_err(|source| ActError::Files { vmm: vmm.to_owned(), source })?;
        }
        let begun = {
            let _settings = self.desk.settings();
            begin(observer, vmm, migration)
        };
        if begun.is_ok() {
            tracing::info!(node = self.config.name, vmm, "The engine has begun");
        }
        let said = match begun {
            Err(ActError::Monitor { source: ClientError::Command { source, .. }, .. }) => source.to_string(),
            // Without a reply nobody knows whether it has begun: the next look tells.
            outcome => return outcome,
        };
        let before = folder.attempt().and_then(|attempt| attempt.before);
        if session(observer, vmm)? != before {
            return Ok(());
        }
        let now = Time(jiff::Timestamp::now());
        let message = format!("It could not begin: {said}");
        self.set_migration(&failed(migration.clone(), FailureReason::EngineFailed, message, &now), false)
    }

    /// Says something again only after a while: what comes of it takes a moment.
    fn tell(&mut self, observer: &mut Observer, vmm: &str, what: &'static str) -> Result<(), ActError> {
        let key = (vmm.to_owned(), what);
        if self.told.get(&key).is_some_and(|told| told.elapsed() < REST) {
            return Ok(());
        }
        self.told.retain(|_, told| told.elapsed() < REST);
        self.told.insert(key, Instant::now());
        command(observer, vmm, what, Value::Null)
    }

    fn quit(&self, vmm: &str, process: Option<u32>, observer: &mut Observer) -> Result<(), ActError> {
        match (observer.client(vmm), process) {
            (Some(client), _) => match client.execute("quit", Value::Null) {
                // It may be gone before its reply is.
                Ok(_) | Err(ClientError::Closed | ClientError::Io(_)) => Ok(()),
                Err(source) => Err(ActError::Monitor { vmm: vmm.to_owned(), source }),
            },
            (None, Some(process)) => {
                process::end(process);
                Ok(())
            }
            (None, None) => Ok(()),
        }
    }

    fn remove(&self, vmm: &str) -> Result<(), ActError> {
        let folder = self.folder(vmm)?;
        let wrong = |source| ActError::Files { vmm: vmm.to_owned(), source };
        // Reports outlive the machine.
        let kept = self.config.directory.join("reports");
        fs::create_dir_all(&kept).map_err(wrong)?;
        for report in fs::read_dir(folder.path().join("reports")).into_iter().flatten().flatten() {
            fs::rename(report.path(), kept.join(report.file_name())).map_err(wrong)?;
        }
        match fs::remove_dir_all(folder.path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(wrong(error)),
            _ => Ok(()),
        }
    }

    fn set_migration(
        &mut self,
        migration: &VirtualMachineInstanceMigration,
        is_progress: bool,
    ) -> Result<(), ActError> {
        let uid = migration.uid().unwrap_or_default();
        if is_progress {
            if self.progress.get(&uid).is_some_and(|written| written.elapsed() < PROGRESS) {
                return Ok(());
            }
            self.progress.insert(uid, Instant::now());
            self.progress.retain(|_, written| written.elapsed() < 10 * PROGRESS);
        }
        let api: Api<VirtualMachineInstanceMigration> = self.api(migration.namespace());
        let write =
            async { api.replace_status(&migration.name_any(), &PostParams::default(), migration).await };
        self.write(&migration.name_any(), write)?;
        let state = migration.status.as_ref().and_then(|status| status.migration_state.as_ref());
        if let Some(state) = state.filter(|state| state.completed && !is_progress) {
            let why = state.failure_reason.as_deref();
            tracing::info!(node = self.config.name, failed = state.failed, why, "The engine is done");
        }
        Ok(())
    }

    fn api<K>(&self, namespace: Option<String>) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &namespace.unwrap_or_default())
    }

    /// A write that was overtaken is no error: it is decided again from what is there now.
    fn write<T>(&self, what: &str, write: impl Future<Output = kube::Result<T>>) -> Result<(), ActError> {
        match self.handle.block_on(async { timeout(PATIENCE, write).await }) {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(kube::Error::Api(refusal))) if matches!(refusal.code, 404 | 409) => Ok(()),
            Ok(Err(source)) => Err(ActError::Api { what: what.to_owned(), source: Box::new(source) }),
            Err(_) => Err(ActError::Slow { what: what.to_owned() }),
        }
    }
}

/// Makes the taps of a machine that is about to start. Those of one that does not start go with this process's descriptors.
fn taps(folder: &Folder, instance: &VirtualMachineInstance) -> io::Result<Vec<Tap>> {
    let spec = &instance.spec;
    let cards = spec.domain.devices.interfaces.iter().enumerate();
    let open = cards.map(|(index, card)| {
        let network = spec.networks.iter().find(|network| network.name == card.name);
        let bridge = network.and_then(|network| network.host_bridge.as_ref());
        let missing = || io::Error::other(format!("There is no network behind interface {}", card.name));
        Tap::open(&tap::name(folder.path(), index), &bridge.ok_or_else(missing)?.bridge_name)
    });
    open.collect()
}

/// Sets what the policy came to, and has the engine begin.
fn begin(
    observer: &mut Observer,
    vmm: &str,
    migration: &VirtualMachineInstanceMigration,
) -> Result<(), ActError> {
    let state =
        migration.status.as_ref().and_then(|status| status.migration_state.clone()).unwrap_or_default();
    let values = state.migration_configuration.unwrap_or_default();
    let allowed = Allowed {
        auto_converge: values.allow_auto_converge,
        post_copy: values.allow_post_copy,
        max_downtime_ms: values.max_downtime_ms,
    };
    command(observer, vmm, "migrate-set-capabilities", allowed.capabilities())?;
    let mut parameters = allowed.parameters();
    parameters["max-bandwidth"] = values.bandwidth_per_migration.bytes().unwrap_or(0).into();
    parameters["tls-hostname"] = state.target_node.unwrap_or_default().into();
    parameters["multifd-channels"] = channels(values.channels).into();
    command(observer, vmm, "migrate-set-parameters", parameters)?;
    migrate(observer, vmm, &state.target_node_address.unwrap_or_default(), migration.metadata.uid.as_deref())
}

/// Has the engine begin. It calls the migration as the objects do, by the UID, so that all that is logged of it on both sides is found by that.
fn migrate(observer: &mut Observer, vmm: &str, uri: &str, uid: Option<&str>) -> Result<(), ActError> {
    let named = json!({ "uri": uri, "whimbrel-session": uid });
    match command(observer, vmm, "migrate", named) {
        // By a VMM of a release that has no such argument, or by one for which the UID is no UUID: it finds a name of its own.
        Err(ActError::Monitor { source: ClientError::Command { source, .. }, .. })
            if source.to_string().contains("whimbrel-session") =>
        {
            command(observer, vmm, "migrate", json!({ "uri": uri }))
        }
        outcome => outcome,
    }
}

/// What every line of the log has that is about a migration: its UID. At the level of errors, so that these have it too.
fn about(id: &str) -> EnteredSpan {
    tracing::error_span!("migration", id).entered()
}

/// The session that the engine of a VMM last began or took part in.
fn session(observer: &mut Observer, vmm: &str) -> Result<Option<String>, ActError> {
    let wrong = |source| ActError::Monitor { vmm: vmm.to_owned(), source };
    let client = observer.client(vmm).ok_or_else(|| wrong(ClientError::Closed))?;
    Ok(client.query_migrate().map_err(wrong)?.whimbrel.and_then(|ours| ours.session))
}

fn command(observer: &mut Observer, vmm: &str, command: &str, arguments: Value) -> Result<(), ActError> {
    let wrong = |source| ActError::Monitor { vmm: vmm.to_owned(), source };
    let client = observer.client(vmm).ok_or_else(|| wrong(ClientError::Closed))?;
    client.execute(command, arguments).map(drop).map_err(wrong)
}
