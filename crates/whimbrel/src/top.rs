//! `whimbrel top`: nodes and migrations of the fleet as they are, once a second.

use std::{
    collections::BTreeMap,
    error::Error,
    io::{self, IsTerminal},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use fleet::fit::{is_ready, memory_of};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client, ResourceExt};
use mirror::Mirror;
use objects::{
    MigrationPhase, MigrationState, VirtualMachineInstance, VirtualMachineInstanceMigration, condition,
};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use crate::{
    reach::{PATIENCE, Reach},
    rig::{Bytes, Interrupt, Memory, Span},
};

/// Show nodes and migrations of all namespaces, and keep that up to date. Ctrl-C ends it.
///
/// Migrations that are over stay for 30 seconds. Without a terminal it is shown once.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Show it once
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    reach: Reach,
}

const TICK: Duration = Duration::from_secs(1);
/// How often is looked whether it is all there, and whether a signal came.
const LOOK: Duration = Duration::from_millis(50);
/// How long a migration that is over stays, in seconds.
const STAYS: i64 = 30;
/// Lines of either table; the others are counted.
const LINES: usize = 40;

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    arguments.reach.run(async |client| top(arguments, &client).await)
}

async fn top(arguments: &Arguments, client: &Client) -> Result<ExitCode, Box<dyn Error>> {
    let interrupt = Interrupt::install()?;
    let changed = Arc::new(Notify::new());
    let nodes: Mirror<Node> = Mirror::start(Api::all(client.clone()), changed.clone());
    let instances: Mirror<VirtualMachineInstance> = Mirror::start(Api::all(client.clone()), changed.clone());
    let migrations: Mirror<VirtualMachineInstanceMigration> =
        Mirror::start(Api::all(client.clone()), changed.clone());
    let is_there = || nodes.is_there() && instances.is_there() && migrations.is_there();
    let there = timeout(PATIENCE, async {
        while !is_there() && interrupt.check().is_ok() {
            sleep(LOOK).await;
        }
    });
    there.await.map_err(|_| format!("The fleet did not reply within {} s: is it up?", PATIENCE.as_secs()))?;
    let is_live = !arguments.once && io::stdout().is_terminal();
    while interrupt.check().is_ok() {
        let seen = Seen { nodes: nodes.all(), instances: instances.all(), migrations: migrations.all() };
        let text = seen.text(Timestamp::now());
        if !is_live {
            output::show(&text)?;
            break;
        }
        // From the upper left corner, each line to its end, and nothing below: without a flicker.
        output::show(&format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n")))?;
        let _ = timeout(TICK, async {
            while interrupt.check().is_ok() {
                sleep(LOOK).await;
            }
        })
        .await;
    }
    Ok(ExitCode::SUCCESS)
}

/// What there is.
struct Seen {
    nodes: Vec<Arc<Node>>,
    instances: Vec<Arc<VirtualMachineInstance>>,
    migrations: Vec<Arc<VirtualMachineInstanceMigration>>,
}

impl Seen {
    fn text(&self, now: Timestamp) -> String {
        let mut lines = self.nodes();
        lines.push(String::new());
        lines.extend(self.migrations(now));
        lines.join("\n") + "\n"
    }

    fn nodes(&self) -> Vec<String> {
        let mut on = BTreeMap::<&str, (usize, u64)>::new();
        for instance in &self.instances {
            let Some(status) = instance.status.as_ref().filter(|status| !status.phase().is_final()) else {
                continue;
            };
            if let Some(node) = status.node_name.as_deref() {
                let entry = on.entry(node).or_default();
                *entry = (entry.0 + 1, entry.1.saturating_add(memory_of(instance)));
            }
        }
        let mut nodes: Vec<_> = self.nodes.iter().collect();
        nodes.sort_by_key(|node| node.name_any());
        let mut lines = vec![format!(
            "{:20} {:20} {:>8} {:>12} {:>4} {:>4}",
            "NODE", "STATUS", "MACHINES", "MEMORY", "OUT", "IN"
        )];
        for node in nodes.iter().take(LINES) {
            let name = node.name_any();
            let (machines, memory) = on.get(name.as_str()).copied().unwrap_or_default();
            let is_cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
            let status = match (is_ready(node), is_cordoned) {
                (true, false) => "Ready",
                (true, true) => "Ready, cordoned",
                (false, false) => "not heard of",
                (false, true) => "not heard of, cord.",
            };
            let moving = |of: fn(&MigrationState) -> Option<&String>| {
                let is_it = |state: &&MigrationState| of(state) == Some(&name);
                self.under_way().filter(is_it).count()
            };
            lines.push(format!(
                "{name:20} {status:20} {machines:8} {:>12} {:4} {:4}",
                Memory(memory).to_string(),
                moving(|state| state.source_node.as_ref()),
                moving(|state| state.target_node.as_ref())
            ));
        }
        lines.extend(more(nodes.len(), "nodes"));
        lines
    }

    fn under_way(&self) -> impl Iterator<Item = &MigrationState> {
        let all = self.migrations.iter().filter_map(|migration| migration.status.as_ref());
        all.filter(|status| status.phase().is_under_way())
            .filter_map(|status| status.migration_state.as_ref())
    }

    fn migrations(&self, now: Timestamp) -> Vec<String> {
        let is_shown = |migration: &&Arc<VirtualMachineInstanceMigration>| {
            let status = migration.status.clone().unwrap_or_default();
            let end = status.migration_state.as_ref().and_then(|state| state.end_timestamp.as_ref());
            !status.phase().is_final() || end.is_some_and(|end| now.duration_since(end.0).as_secs() < STAYS)
        };
        let mut shown: Vec<_> = self.migrations.iter().filter(is_shown).collect();
        // What moves first, then what waits, then what is over; of each who came first.
        shown.sort_by_key(|migration| {
            let phase = migration.status.as_ref().map(|status| status.phase()).unwrap_or_default();
            (
                phase.is_final(),
                phase == MigrationPhase::Pending,
                migration.creation_timestamp(),
                migration.name_any(),
            )
        });
        if shown.is_empty() {
            return vec!["Nothing moves.".to_owned()];
        }
        let mut lines = vec![format!(
            "{:25} {:25} {:15} {:>4} {:>10} {:>11} {:>11} {:>8}",
            "MACHINE", "WAY", "PHASE", "%", "TO GO", "WIRE/S", "DIRTIED/S", "ETA"
        )];
        lines.extend(shown.iter().take(LINES).map(|migration| line(migration)));
        lines.extend(more(shown.len(), "migrations"));
        lines
    }
}

/// A migration, on a line.
fn line(migration: &VirtualMachineInstanceMigration) -> String {
    let status = migration.status.clone().unwrap_or_default();
    let state = status.migration_state.clone().unwrap_or_default();
    let machine = format!("{}/{}", migration.namespace().unwrap_or_default(), migration.spec.vmi_name);
    let way = match (state.source_node, state.target_node) {
        (Some(source), Some(target)) => format!("{source} > {target}"),
        _ => String::new(),
    };
    let begin = format!("{machine:25} {way:25} {:15}", format!("{:?}", status.phase()));
    if let (MigrationPhase::Running, Some(progress)) = (status.phase(), &state.progress) {
        let eta = progress.eta_ms.map(|millis| Span(Duration::from_millis(millis)).to_string());
        return format!(
            "{begin} {:4} {:>10} {:>11} {:>11} {:>8}",
            progress.percent.unwrap_or(0),
            Bytes(progress.remaining_bytes).to_string(),
            Bytes(progress.wire_rate).to_string(),
            Bytes(progress.dirty_rate).to_string(),
            eta.unwrap_or_else(|| "none".to_owned())
        );
    }
    let why = match (status.phase(), state.result) {
        (MigrationPhase::Pending, _) => {
            condition(&status.conditions, "Scheduled").and_then(|condition| condition.message.clone())
        }
        (MigrationPhase::Failed, _) => state.failure_reason,
        (MigrationPhase::Succeeded, Some(result)) => {
            let down = Duration::from_millis(result.downtime.map_or(0, |downtime| downtime.total_ms));
            let all = Duration::from_millis(result.total_ms.unwrap_or(0));
            Some(format!("{} in all, {} down", Span(all), Span(down)))
        }
        _ => None,
    };
    format!("{begin} {}", why.unwrap_or_default()).trim_end().to_owned()
}

fn more(count: usize, what: &str) -> Option<String> {
    let hidden = count.saturating_sub(LINES);
    (hidden > 0).then(|| format!("… and {hidden} more {what}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn migration(name: &str, created: &str, status: &Value) -> Arc<VirtualMachineInstanceMigration> {
        let object = json!({
            "apiVersion": "whimbrel.dev/v1", "kind": "VirtualMachineInstanceMigration",
            "metadata": { "name": name, "namespace": "default", "creationTimestamp": created },
            "spec": { "vmiName": name }, "status": status,
        });
        Arc::new(serde_json::from_value(object).unwrap())
    }

    #[test]
    fn what_moves_comes_first_and_what_was_over_long_ago_not_at_all() {
        let at = |second: &str| format!("2026-01-01T00:00:{second}Z");
        let over =
            |second: &str| json!({ "phase": "Succeeded", "migrationState": { "endTimestamp": at(second) } });
        let moving = json!({ "phase": "Running", "migrationState": {
            "sourceNode": "a", "targetNode": "b", "progress": { "percent": 7, "etaMs": 1500 },
        } });
        let waits = json!({ "phase": "Pending", "conditions": [
            { "type": "Scheduled", "status": "False", "message": "Position 1 in the queue" },
        ] });
        let node = json!({ "metadata": { "name": "a" }, "status": { "conditions": [{ "type": "Ready", "status": "True" }] } });
        let seen = Seen {
            nodes: vec![Arc::new(serde_json::from_value(node).unwrap())],
            instances: Vec::new(),
            migrations: vec![
                migration("old", &at("01"), &over("02")),
                migration("waits", &at("03"), &waits),
                migration("over", &at("02"), &over("50")),
                migration("moves", &at("04"), &moving),
            ],
        };
        let text = seen.text("2026-01-01T00:00:55Z".parse().unwrap());
        let places = ["default/moves", "default/waits", "default/over"].map(|name| text.find(name).unwrap());
        assert!(places.is_sorted() && !text.contains("default/old"), "{text}");
        assert!(text.contains("a > b") && text.contains("1.5 s") && text.contains("Position 1"), "{text}");
        let node: Vec<_> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(node, ["a", "Ready", "0", "0", "MiB", "1", "0"]);
    }
}
