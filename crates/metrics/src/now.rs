//! What is so now.

use std::collections::BTreeMap;

use fleet::{World, fit::is_ready};
use k8s_openapi::api::core::v1::Node;
use objects::{MigrationPhase, NodeDrain, NodeDrainStatus, Progress, VirtualMachineInstanceMigration};

use crate::exposition::{Kind, Page};

/// A name, what it is, and how it is found.
type Figure<T, V> = (&'static str, &'static str, fn(&T) -> V);

/// Whether this process decides for the fleet.
pub(crate) fn leading(leads: bool, page: &mut Page) {
    let name = "whimbrel_controllers_leading";
    page.family(name, Kind::Gauge, "Whether this process decides for the fleet.");
    page.sample(name, &[], f64::from(u8::from(leads)));
}

/// Migrations: how many stand where, and how far each one is whose memory moves.
pub(crate) fn migrations(world: &World, page: &mut Page) {
    let phases = [
        ("pending", "wait for their turn or for a node", [MigrationPhase::Pending].as_slice()),
        (
            "scheduling",
            "have a target that is not ready yet",
            &[MigrationPhase::Scheduled, MigrationPhase::PreparingTarget],
        ),
        ("running", "move memory, or are about to", &[MigrationPhase::TargetReady, MigrationPhase::Running]),
    ];
    for (name, what, those) in phases {
        let name = format!("kubevirt_vmi_migrations_in_{name}_phase");
        page.family(&name, Kind::Gauge, &format!("Migrations that {what}."));
        let count = world.migrations.iter().filter(|migration| those.contains(&phase(migration))).count();
        page.sample(&name, &[], count as f64);
    }
    let of: [Figure<Progress, u64>; 5] = [
        ("kubevirt_vmi_migration_data_processed_bytes", "Bytes that were sent.", |it| it.transferred_bytes),
        ("kubevirt_vmi_migration_data_remaining_bytes", "Bytes that are still to be sent.", |it| {
            it.remaining_bytes
        }),
        (
            "kubevirt_vmi_migration_dirty_memory_rate_bytes",
            "Bytes each second that the guest dirtied in the last round.",
            |it| it.dirty_rate,
        ),
        (
            "kubevirt_vmi_migration_memory_transfer_rate_bytes",
            "Bytes each second on the wire in the last round.",
            |it| it.wire_rate,
        ),
        ("whimbrel_migration_round", "Passes over the dirty memory.", |it| it.round.into()),
    ];
    let under_way = || {
        world.migrations.iter().filter_map(|migration| {
            let state = migration
                .status
                .as_ref()
                .filter(|status| status.phase().is_under_way())?
                .migration_state
                .as_ref()?;
            Some((migration, state, state.progress.as_ref()?))
        })
    };
    for (name, help, value) in of {
        page.family(name, Kind::Gauge, help);
        for (migration, state, progress) in under_way() {
            let labels = [
                ("namespace", migration.metadata.namespace.as_deref().unwrap_or_default()),
                ("name", migration.spec.vmi_name.as_str()),
                ("node", state.source_node.as_deref().unwrap_or_default()),
                ("migration", migration.metadata.name.as_deref().unwrap_or_default()),
            ];
            page.sample(name, &labels, value(progress) as f64);
        }
    }
}

/// Instances by where they stand.
pub(crate) fn machines(world: &World, page: &mut Page) {
    let mut counts = BTreeMap::<(String, String), u64>::new();
    for instance in &world.instances {
        let status = instance.status.as_ref();
        let phase = status.map(objects::VirtualMachineInstanceStatus::phase).unwrap_or_default();
        let node = status.and_then(|status| status.node_name.clone()).unwrap_or_default();
        *counts.entry((node, format!("{phase:?}").to_lowercase())).or_default() += 1;
    }
    let name = "whimbrel_instances";
    page.family(name, Kind::Gauge, "Instances by node and phase.");
    for ((node, phase), count) in &counts {
        page.sample(name, &[("node", node), ("phase", phase)], *count as f64);
    }
}

/// Nodes: whether they are heard of, and whether they take machines.
pub(crate) fn nodes(world: &World, page: &mut Page) {
    let of: [Figure<Node, bool>; 2] = [
        ("whimbrel_node_ready", "Whether the agent of a node is heard of.", is_ready),
        ("whimbrel_node_schedulable", "Whether a node is not cordoned.", |node| {
            node.spec.as_ref().and_then(|spec| spec.unschedulable) != Some(true)
        }),
    ];
    for (name, help, holds) in of {
        page.family(name, Kind::Gauge, help);
        for node in &world.nodes {
            let labels = [("node", node.metadata.name.as_deref().unwrap_or_default())];
            page.sample(name, &labels, f64::from(u8::from(holds(node))));
        }
    }
}

/// Drains that go on.
pub(crate) fn drains(world: &World, page: &mut Page) {
    let of: [Figure<NodeDrainStatus, u32>; 3] = [
        ("whimbrel_drain_machines_moved", "Machines that were moved for a drain that goes on.", |it| {
            it.moved
        }),
        ("whimbrel_drain_machines_left", "Machines that are still on its nodes.", |it| it.left),
        ("whimbrel_drain_machines_blocked", "Machines of these that cannot move as things are.", |it| {
            it.blocked
        }),
    ];
    let active = |drain: &&std::sync::Arc<NodeDrain>| {
        drain.status.as_ref().is_some_and(|status| !status.phase().is_final())
    };
    for (name, help, value) in of {
        page.family(name, Kind::Gauge, help);
        for drain in world.drains.iter().filter(active) {
            let labels = [("drain", drain.metadata.name.as_deref().unwrap_or_default())];
            page.sample(name, &labels, drain.status.as_ref().map_or(0, value).into());
        }
    }
}

fn phase(migration: &VirtualMachineInstanceMigration) -> MigrationPhase {
    migration.status.as_ref().map(objects::VirtualMachineInstanceMigrationStatus::phase).unwrap_or_default()
}
