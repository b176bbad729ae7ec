//! The decisions of the fleet. Objects and the time go in ([`World`], [`decide`]), what to write comes out ([`Intent`]).
//!
//! Nothing here reads, writes or waits. Every decision is made from all objects as they are, so that whoever carries intents out can be
//! killed between any two of them: what was not done is decided again, what was done is not. Intents that write a status carry the
//! revision that they were made from; one that has been overtaken fails, and is decided again.
//!
//! * `admission`: what a server of ours sees to before it stores an object.
//! * `machine`: when a machine has an instance. `placement`: where an instance runs. `migration`: the way of a migration,
//!   `overdue`: what is done when its time is up.
//! * [`fit`]: whether a machine can run on a node, with all reasons (`processor`: by its processor). [`policy`]: which policy applies, and what it comes to.
//! * [`plan`]: what would become of a migration that was asked for now. [`preview`]: what a policy would change.
//! * [`way`]: how fast the way between two nodes is.
//! * [`drain`]: how nodes are emptied, and what would become of that.
//! * `queue`: how many migrations at a time, and who is next. `retention`: how long their records are kept.

mod admission;
mod affinity;
mod apart;
mod behind;
pub mod drain;
pub mod fit;
mod index;
mod kubelet;
mod machine;
mod migration;
mod namespace;
mod node;
mod overdue;
mod placement;
pub mod plan;
pub mod policy;
pub mod preview;
mod processor;
mod queue;
mod retention;
mod retry;
pub mod way;
mod world;

use k8s_openapi::{
    api::core::v1::{Namespace, Node},
    apimachinery::pkg::apis::meta::v1::Time,
};
use objects::{
    MigrationPhase, NodeDrain, VirtualMachine, VirtualMachineInstance, VirtualMachineInstanceMigration,
};

pub use node::NODE_LEASE_SECONDS;
pub use world::{World, vmm_name};

use index::Index;

/// The kind of a migration.
const MIGRATION_KIND: &str = "VirtualMachineInstanceMigration";

/// Something to write.
#[derive(Clone, Debug, PartialEq)]
pub enum Intent {
    /// Make this instance.
    CreateInstance(Box<VirtualMachineInstance>),
    /// Delete this instance, if it is still this one.
    DeleteInstance(Box<VirtualMachineInstance>),
    /// Hold this instance until its VMM is gone.
    HoldInstance(Box<VirtualMachineInstance>),
    /// Hold this migration until it is over.
    HoldMigration(Box<VirtualMachineInstanceMigration>),
    /// Hold this drain until it is over.
    HoldDrain(Box<NodeDrain>),
    /// Let go of this instance, which is being deleted and never had a VMM.
    ReleaseInstance(Box<VirtualMachineInstance>),
    /// Delete this machine, whose namespace is being deleted.
    DeleteMachine(Box<VirtualMachine>),
    /// Let go of this namespace, which is being deleted and empty.
    ReleaseNamespace(Box<Namespace>),
    /// Delete this migration, whose record has been kept long enough.
    DeleteMigration(Box<VirtualMachineInstanceMigration>),
    /// Let go of this migration, which is being deleted and is over.
    ReleaseMigration(Box<VirtualMachineInstanceMigration>),
    /// Write this status.
    SetMachineStatus(Box<VirtualMachine>),
    /// Write this status.
    SetInstanceStatus(Box<VirtualMachineInstance>),
    /// Write this status.
    SetMigrationStatus(Box<VirtualMachineInstanceMigration>),
    /// Write this status.
    SetNodeStatus(Box<Node>),
    /// Make this migration, with which one that failed is tried again. If it is there already, that was done.
    RetryMigration(Box<VirtualMachineInstanceMigration>),
    /// Make this migration for a drain of that name.
    CreateMigration(Box<VirtualMachineInstanceMigration>, String),
    /// Have this migration of a drain of that name given up.
    CancelMigration(Box<VirtualMachineInstanceMigration>, String),
    /// Have nothing new placed on this node, or end that (`false`), for a drain of that name.
    Cordon(Box<Node>, bool, String),
    /// Write this status, if no machine is on these nodes or on its way from or to them, by a look at the objects as they are at that time
    /// ([`drain::occupied`]): the status says that these were emptied.
    SetDrainStatus(Box<NodeDrain>, Vec<String>),
    /// Let go of this drain, which is being deleted and is over.
    ReleaseDrain(Box<NodeDrain>),
    /// Delete this drain, whose record has been kept long enough.
    DeleteDrain(Box<NodeDrain>),
    /// Tell people.
    Record(Note),
}

/// Something that people may want to know of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The kind of the object that it is about.
    pub kind: &'static str,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// In one word.
    pub reason: &'static str,
    /// In a sentence.
    pub message: String,
    /// Whether something went wrong.
    pub is_warning: bool,
}

impl Intent {
    /// The namespace and the name of what it is about: of a machine, or of a drain, which has no namespace. Intents about one of these
    /// build on each other: if one of them is not carried out, those after it must not be either. A [`Note`] belongs to the intent
    /// before it.
    pub fn subject(&self) -> Option<(&str, &str)> {
        let (metadata, name) = match self {
            Self::CreateInstance(instance)
            | Self::DeleteInstance(instance)
            | Self::HoldInstance(instance)
            | Self::ReleaseInstance(instance)
            | Self::SetInstanceStatus(instance) => (&instance.metadata, world::name_of(&instance.metadata)),
            Self::DeleteMachine(machine) | Self::SetMachineStatus(machine) => {
                (&machine.metadata, world::name_of(&machine.metadata))
            }
            Self::DeleteMigration(migration)
            | Self::HoldMigration(migration)
            | Self::ReleaseMigration(migration)
            | Self::RetryMigration(migration)
            | Self::SetMigrationStatus(migration) => (&migration.metadata, migration.spec.vmi_name.as_str()),
            Self::HoldDrain(drain)
            | Self::SetDrainStatus(drain, _)
            | Self::ReleaseDrain(drain)
            | Self::DeleteDrain(drain) => (&drain.metadata, world::name_of(&drain.metadata)),
            Self::CreateMigration(_, drain) | Self::CancelMigration(_, drain) | Self::Cordon(_, _, drain) => {
                return Some(("", drain));
            }
            Self::SetNodeStatus(_) | Self::ReleaseNamespace(_) | Self::Record(_) => return None,
        };
        Some((world::namespace_of(metadata), name))
    }

    /// The UID of the migration that it is about; `None` where it is about none, or about one that is not there yet.
    pub fn migration(&self) -> Option<&str> {
        match self {
            Self::DeleteMigration(migration)
            | Self::HoldMigration(migration)
            | Self::ReleaseMigration(migration)
            | Self::SetMigrationStatus(migration)
            | Self::CancelMigration(migration, _) => migration.metadata.uid.as_deref(),
            Self::Record(note) => (note.kind == MIGRATION_KIND).then_some(note.uid.as_str()),
            _ => None,
        }
    }

    /// Whether it sends a migration on its way, by the policies, the limits and the namespaces that were seen.
    pub fn goes_by_policies(&self) -> bool {
        let Self::SetMigrationStatus(migration) = self else { return false };
        migration.status.as_ref().is_some_and(|status| status.phase() == MigrationPhase::Scheduled)
    }

    /// Whether nothing of the same subject builds on it: what a drain asks of one machine is no matter of its other machines.
    pub fn stands_alone(&self) -> bool {
        matches!(self, Self::CreateMigration(..) | Self::CancelMigration(..))
    }
}

/// What to write now. Intents are to be carried out in order; what is left out is decided again. [`Intent::subject`] says what must be left
/// out where one fails.
pub fn decide(world: &World, now: &Time) -> Vec<Intent> {
    let mut intents = Vec::new();
    admission::decide(world, &mut intents);
    let mut index = Index::new(world);
    node::decide(world, now, &mut intents);
    machine::decide(&index, now, &mut intents);
    placement::decide(&mut index, now, &mut intents);
    migration::decide(&mut index, now, &mut intents);
    retry::decide(&index, now, &mut intents);
    drain::decide(&mut index, now, &mut intents);
    retention::decide(world, now, &mut intents);
    namespace::decide(world, &mut intents);
    intents
}
