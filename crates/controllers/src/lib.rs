//! Carries out what `fleet` decides: mirrors of all objects in, writes out.
//!
//! There is one loop and no memory but the mirrors. It runs when something has changed, and once a second, since some decisions come with
//! time. A write that was overtaken fails and is decided again, so that any number of writes may be cut off at any place.

mod clocks;
mod leader;
mod record;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    sync::Arc,
    time::{Duration, Instant},
};

use fleet::{Intent, World};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Namespace, Node},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
    core::NamespaceResourceScope,
};
use mirror::Mirror;
use objects::{
    DRAIN_FINALIZER, Fleet, MIGRATION_FINALIZER, MigrationPolicy, NAMESPACE_FINALIZER, NodeDrain,
    VMM_FINALIZER, VirtualMachine, VirtualMachineInstance, VirtualMachineInstanceMigration,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use tracing::{Instrument, Span};

use clocks::Clocks;
pub use leader::{Candidate, LeaderError, lead};

/// The namespace in which agents renew their leases, where nothing else is said.
pub const NODE_LEASES: &str = "default";

/// How often is decided when nothing changes.
const TICK: Duration = Duration::from_secs(1);
/// How long a write may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// All objects, copied.
struct Mirrors {
    machines: Mirror<VirtualMachine>,
    instances: Mirror<VirtualMachineInstance>,
    migrations: Mirror<VirtualMachineInstanceMigration>,
    policies: Mirror<MigrationPolicy>,
    fleets: Mirror<Fleet>,
    nodes: Mirror<Node>,
    leases: Mirror<Lease>,
    drains: Mirror<NodeDrain>,
    namespaces: Mirror<Namespace>,
}

impl Mirrors {
    fn start(client: &Client, leases: &str, changed: &Arc<Notify>) -> Self {
        Self {
            machines: Mirror::start(Api::all(client.clone()), changed.clone()),
            instances: Mirror::start(Api::all(client.clone()), changed.clone()),
            migrations: Mirror::start(Api::all(client.clone()), changed.clone()),
            policies: Mirror::start(Api::all(client.clone()), changed.clone()),
            fleets: Mirror::start(Api::all(client.clone()), changed.clone()),
            nodes: Mirror::start(Api::all(client.clone()), changed.clone()),
            leases: Mirror::start(Api::namespaced(client.clone(), leases), changed.clone()),
            drains: Mirror::start(Api::all(client.clone()), changed.clone()),
            namespaces: Mirror::start(Api::all(client.clone()), changed.clone()),
        }
    }

    /// The world as it was last heard of; `None` until all of it was.
    fn world(&self) -> Option<World> {
        let is_there = self.machines.is_there()
            && self.instances.is_there()
            && self.migrations.is_there()
            && self.policies.is_there()
            && self.fleets.is_there()
            && self.nodes.is_there()
            && self.leases.is_there()
            && self.drains.is_there()
            && self.namespaces.is_there();
        is_there.then(|| World {
            machines: self.machines.all(),
            instances: self.instances.all(),
            migrations: self.migrations.all(),
            policies: self.policies.all(),
            fleets: self.fleets.all(),
            nodes: self.nodes.all(),
            leases: self.leases.all(),
            heard: BTreeMap::new(),
            drains: self.drains.all(),
            namespaces: self.namespaces.all(),
        })
    }
}

/// Decides and writes until it is dropped. One at a time may run: where there are several, [`lead`] sees to it. Agents renew their leases in
/// the namespace `leases`. `look` sees the world each time before something is decided.
pub async fn run(client: Client, leases: &str, mut look: impl FnMut(&World)) {
    let changed = Arc::new(Notify::new());
    let mirrors = Mirrors::start(&client, leases, &changed);
    let mut clocks = Clocks::default();
    loop {
        // Both ends are a reason to look: what changed, and time.
        let _ = timeout(TICK, changed.notified()).await;
        let Some(mut world) = mirrors.world() else { continue };
        let now = Time(Timestamp::now());
        let news = clocks.look(&world.leases, &now);
        world.heard = clocks.heard();
        look(&world);
        let began = Instant::now();
        let mut intents = fleet::decide(&world, &now);
        intents.extend(news.iter().filter_map(|apart| apart.note(&world.nodes)).map(Intent::Record));
        // However much changes, at most half of the time of a processor goes into decisions.
        let rest = began.elapsed().min(TICK);
        carry_out_all(&client, &world, &intents).await;
        sleep(rest).await;
    }
}

/// Carries out what can be. A machine or a drain of which something fails is left for the next time, and holds up no other.
async fn carry_out_all(client: &Client, world: &World, intents: &[Intent]) {
    let mut left = BTreeSet::new();
    let mut is_done = true;
    for intent in intents {
        is_done = match intent.subject() {
            Some(subject) => !left.contains(&subject),
            None => is_done || !matches!(intent, Intent::Record(_)),
        };
        if !is_done {
            continue;
        }
        let outcome =
            timeout(PATIENCE, carry_out_if_true(client, world, intent)).instrument(about(intent)).await;
        let _about = about(intent).entered();
        let Ok(outcome) = outcome else {
            tracing::warn!("The API does not reply; it is tried again");
            return;
        };
        match outcome {
            Ok(is_true) => is_done = is_true,
            // Overtaken, and decided again.
            Err(kube::Error::Api(refusal)) if matches!(refusal.code, 404 | 409) => is_done = false,
            Err(kube::Error::Api(refusal)) => {
                tracing::warn!(%refusal, subject = ?intent.subject(), "A write was refused");
                is_done = false;
            }
            // One object that is not understood holds up what rests on it, and no more.
            Err(error @ kube::Error::SerdeError(_)) => {
                tracing::warn!(%error, subject = ?intent.subject(), "What the API says is not understood");
                is_done = false;
            }
            Err(error) => {
                tracing::warn!(%error, "The API cannot be reached; it is tried again");
                return;
            }
        }
        if !is_done && !intent.stands_alone() {
            left.extend(intent.subject());
        }
    }
}

/// What every line of the log has that is about a migration: its UID. At the level of errors, so that these have it too.
fn about(intent: &Intent) -> Span {
    match intent.migration() {
        Some(id) => tracing::error_span!("migration", id),
        None => Span::none(),
    }
}

/// Returns whether it is still true what an intent says, and carries it out only then.
async fn carry_out_if_true(client: &Client, world: &World, intent: &Intent) -> kube::Result<bool> {
    if let Intent::SetDrainStatus(_, emptied) = intent
        && !are_empty(client, emptied).await?
    {
        return Ok(false);
    }
    if intent.goes_by_policies() && !rules_are_current(client, world).await? {
        return Ok(false);
    }
    carry_out(client, intent).await.map(|()| true)
}

/// Looks afresh at what a migration goes by: what was written before the migration was asked for holds for it, although its kind is
/// watched by itself and may be heard of later.
async fn rules_are_current(client: &Client, world: &World) -> kube::Result<bool> {
    let (policies, fleets, namespaces) =
        (Api::all(client.clone()), Api::all(client.clone()), Api::all(client.clone()));
    let (policies, fleets, namespaces) = tokio::try_join!(
        mirror::are_current(&policies, &world.policies),
        mirror::are_current(&fleets, &world.fleets),
        mirror::are_current(&namespaces, &world.namespaces),
    )?;
    let are_current = policies && fleets && namespaces;
    if !are_current {
        tracing::debug!("What migrations go by has changed, and was not heard of yet");
    }
    Ok(are_current)
}

/// Looks afresh whether nodes are empty: a machine that was put there a moment ago may not have been heard of.
async fn are_empty(client: &Client, nodes: &[String]) -> kube::Result<bool> {
    if nodes.is_empty() {
        return Ok(true);
    }
    let everything = ListParams::default();
    let instances: Api<VirtualMachineInstance> = Api::all(client.clone());
    let migrations: Api<VirtualMachineInstanceMigration> = Api::all(client.clone());
    // Migrations first: a machine that arrives in between is seen on its node.
    let migrations = migrations.list(&everything).await?;
    let instances = instances.list(&everything).await?;
    let occupied = fleet::drain::occupied(nodes, &instances.items, &migrations.items);
    if let Some(node) = occupied {
        tracing::info!(node, "A machine was put on the node while it was emptied");
    }
    Ok(occupied.is_none())
}

async fn carry_out(client: &Client, intent: &Intent) -> kube::Result<()> {
    match intent {
        Intent::CreateInstance(instance) => {
            let api: Api<VirtualMachineInstance> = namespaced(client, &**instance);
            api.create(&PostParams::default(), instance).await.map(drop)
        }
        Intent::DeleteInstance(instance) => {
            let api: Api<VirtualMachineInstance> = namespaced(client, &**instance);
            api.delete(&instance.name_any(), &as_seen(&**instance)).await.map(drop)
        }
        Intent::DeleteMachine(machine) => delete(client, &**machine).await,
        Intent::DeleteMigration(migration) => delete(client, &**migration).await,
        Intent::ReleaseNamespace(namespace) => {
            let api: Api<Namespace> = Api::all(client.clone());
            let patch = without(&**namespace, NAMESPACE_FINALIZER);
            api.patch(&namespace.name_any(), &PatchParams::default(), &patch).await.map(drop)
        }
        Intent::HoldInstance(instance) => hold(client, &**instance, VMM_FINALIZER).await,
        Intent::HoldMigration(migration) => hold(client, &**migration, MIGRATION_FINALIZER).await,
        Intent::HoldDrain(drain) => {
            let api: Api<NodeDrain> = Api::all(client.clone());
            let patch = with(&**drain, DRAIN_FINALIZER);
            api.patch(&drain.name_any(), &PatchParams::default(), &patch).await.map(drop)
        }
        Intent::ReleaseInstance(instance) => release(client, &**instance, VMM_FINALIZER).await,
        Intent::ReleaseMigration(migration) => release(client, &**migration, MIGRATION_FINALIZER).await,
        Intent::SetMachineStatus(machine) => set_status(client, &**machine).await,
        Intent::SetInstanceStatus(instance) => set_status(client, &**instance).await,
        Intent::SetMigrationStatus(migration) => set_status(client, &**migration).await,
        Intent::SetNodeStatus(node) => {
            let api: Api<Node> = Api::all(client.clone());
            api.replace_status(&node.name_any(), &PostParams::default(), node).await.map(drop)
        }
        Intent::RetryMigration(migration) => {
            let api: Api<VirtualMachineInstanceMigration> = namespaced(client, &**migration);
            match api.create(&PostParams::default(), migration).await {
                Err(kube::Error::Api(refusal)) if refusal.code == 409 => Ok(()),
                outcome => outcome.map(drop),
            }
        }
        Intent::CreateMigration(migration, _) => {
            let api: Api<VirtualMachineInstanceMigration> = namespaced(client, &**migration);
            api.create(&PostParams::default(), migration).await.map(drop)
        }
        Intent::CancelMigration(migration, _) => {
            let api: Api<VirtualMachineInstanceMigration> = namespaced(client, &**migration);
            let patch = Patch::Merge(json!({ "spec": { "cancel": true } }));
            api.patch(&migration.name_any(), &PatchParams::default(), &patch).await.map(drop)
        }
        Intent::Cordon(node, is_cordoned, _) => {
            let api: Api<Node> = Api::all(client.clone());
            let patch = Patch::Merge(json!({ "spec": { "unschedulable": is_cordoned } }));
            api.patch(&node.name_any(), &PatchParams::default(), &patch).await.map(drop)
        }
        Intent::SetDrainStatus(drain, _) => {
            let api: Api<NodeDrain> = Api::all(client.clone());
            api.replace_status(&drain.name_any(), &PostParams::default(), drain).await.map(drop)
        }
        Intent::ReleaseDrain(drain) => {
            let api: Api<NodeDrain> = Api::all(client.clone());
            let patch = without(&**drain, DRAIN_FINALIZER);
            api.patch(&drain.name_any(), &PatchParams::default(), &patch).await.map(drop)
        }
        Intent::DeleteDrain(drain) => {
            let api: Api<NodeDrain> = Api::all(client.clone());
            api.delete(&drain.name_any(), &same(&**drain)).await.map(drop)
        }
        Intent::Record(note) => {
            let (kind, namespace, name, uid) = (note.kind, &note.namespace, &note.name, &note.uid);
            tracing::info!(kind, namespace, name, uid, reason = note.reason, "{}", note.message);
            record::record(client, note).await
        }
    }
}

fn namespaced<K>(client: &Client, object: &K) -> Api<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
{
    Api::namespaced(client.clone(), &object.namespace().unwrap_or_default())
}

/// Deletes an object, if it is still this one.
async fn delete<K>(client: &Client, object: &K) -> kube::Result<()>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    namespaced(client, object).delete(&object.name_any(), &same(object)).await.map(drop)
}

/// How to delete an object only if it is still this one.
fn same<K: Resource>(object: &K) -> DeleteParams {
    let same = Preconditions { uid: object.meta().uid.clone(), ..Preconditions::default() };
    DeleteParams { preconditions: Some(same), ..DeleteParams::background() }
}

/// How to delete an object only if it is still as it was when that was decided: a machine may have moved away from what it was to be ended for.
fn as_seen<K: Resource>(object: &K) -> DeleteParams {
    let mut parameters = same(object);
    if let Some(preconditions) = &mut parameters.preconditions {
        preconditions.resource_version = object.resource_version();
    }
    parameters
}

async fn hold<K>(client: &Client, object: &K, finalizer: &str) -> kube::Result<()>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let patch = with(object, finalizer);
    namespaced(client, object).patch(&object.name_any(), &PatchParams::default(), &patch).await.map(drop)
}

async fn release<K>(client: &Client, object: &K, finalizer: &str) -> kube::Result<()>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let patch = without(object, finalizer);
    namespaced(client, object).patch(&object.name_any(), &PatchParams::default(), &patch).await.map(drop)
}

/// A patch that puts a finalizer on an object as it was seen.
fn with<K: Resource>(object: &K, finalizer: &str) -> Patch<Value> {
    let finalizers: Vec<_> = object.finalizers().iter().map(String::as_str).chain([finalizer]).collect();
    let metadata = json!({ "finalizers": finalizers, "resourceVersion": object.resource_version() });
    Patch::Merge(json!({ "metadata": metadata }))
}

/// A patch that takes a finalizer off an object as it was seen.
fn without<K: Resource>(object: &K, finalizer: &str) -> Patch<Value> {
    let others: Vec<_> = object.finalizers().iter().filter(|name| *name != finalizer).collect();
    let metadata = json!({ "finalizers": others, "resourceVersion": object.resource_version() });
    Patch::Merge(json!({ "metadata": metadata }))
}

async fn set_status<K>(client: &Client, object: &K) -> kube::Result<()>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned,
{
    namespaced(client, object)
        .replace_status(&object.name_any(), &PostParams::default(), object)
        .await
        .map(drop)
}

#[cfg(test)]
mod tests {
    use kube::core::ObjectMeta;

    use super::*;

    #[test]
    fn a_run_is_ended_only_as_it_was_seen() {
        let metadata = ObjectMeta {
            uid: Some("u".to_owned()),
            resource_version: Some("7".to_owned()),
            ..ObjectMeta::default()
        };
        let seen = Node { metadata, ..Node::default() };
        let wanted = as_seen(&seen).preconditions.map(|wanted| (wanted.uid, wanted.resource_version));
        assert_eq!(wanted, Some((Some("u".to_owned()), Some("7".to_owned()))));
        assert_eq!(same(&seen).preconditions.and_then(|wanted| wanted.resource_version), None);
    }
}
