//! What is counted, what promtool thinks of it, and of the rules.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use fleet::World;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use metrics::{Format, Tally};
use serde_json::json;

fn migration(uid: &str, phase: &str, downtime_ms: u64) -> objects::VirtualMachineInstanceMigration {
    let failure = json!({ "reason": "EngineFailed", "message": "It \"broke\"." });
    serde_json::from_value(json!({
        "apiVersion": "whimbrel.dev/v1", "kind": "VirtualMachineInstanceMigration",
        "metadata": { "name": uid, "namespace": "default", "uid": uid }, "spec": { "vmiName": "db" },
        "status": { "phase": phase, "migrationState": {
            "sourceNode": "a", "targetNode": "b", "failure": if phase == "Failed" { failure } else { json!(null) },
            "progress": { "round": 3, "remainingBytes": 10, "transferredBytes": 20, "wireRate": 30, "dirtyRate": 40 },
            "result": { "transferredBytes": 1000, "downtime": { "totalMs": downtime_ms } },
        }},
    }))
    .unwrap()
}

fn world(migrations: Vec<objects::VirtualMachineInstanceMigration>) -> World {
    let instance = json!({
        "apiVersion": "whimbrel.dev/v1", "kind": "VirtualMachineInstance", "metadata": { "name": "db" },
        "spec": { "domain": { "memory": { "guest": "1Gi" }, "firmware": { "kernelBoot": {} } } },
        "status": { "phase": "Running", "nodeName": "a" },
    });
    let node = json!({ "metadata": { "name": "a" } });
    let drain = json!({
        "apiVersion": "whimbrel.dev/v1", "kind": "NodeDrain", "metadata": { "name": "d" }, "spec": { "nodes": ["a"] },
        "status": { "phase": "Draining", "left": 1 },
    });
    World {
        migrations: migrations.into_iter().map(Arc::new).collect(),
        instances: vec![serde_json::from_value(instance).map(Arc::new).unwrap()],
        nodes: vec![serde_json::from_value(node).map(Arc::new).unwrap()],
        drains: vec![serde_json::from_value(drain).map(Arc::new).unwrap()],
        ..World::default()
    }
}

#[test]
fn what_is_over_is_counted_once_whatever_becomes_of_its_record_and_of_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("counts.json");
    let first = world(vec![
        migration("1", "Succeeded", 4),
        migration("2", "Failed", 0),
        migration("3", "Running", 0),
    ]);
    for _ in 0..3 {
        // Each time as after a restart.
        open(&file).observe(&first).unwrap();
    }
    let mut tally = open(&file);
    tally.observe(&world(vec![migration("3", "Succeeded", 700)])).unwrap();
    let text = metrics::text(&World::default(), &open(&file), Format::OpenMetrics);
    for line in [
        "whimbrel_migrations_total{outcome=\"Succeeded\",reason=\"\"} 2",
        "whimbrel_migrations_total{outcome=\"Failed\",reason=\"EngineFailed\"} 1",
        "whimbrel_migration_transferred_bytes_total 2000",
        "whimbrel_migration_downtime_over_budget_total 1",
        "whimbrel_migration_downtime_seconds_bucket{le=\"0.005\"} 1",
        "whimbrel_migration_downtime_seconds_bucket{le=\"1\"} 2",
        "whimbrel_migration_downtime_seconds_sum 0.704",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
}

fn open(file: &Path) -> Tally {
    let (tally, damaged) = Tally::open(file).unwrap();
    assert!(damaged.is_none(), "{damaged:?}");
    tally
}

#[test]
fn a_damaged_file_is_put_aside_and_counting_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("counts.json");
    std::fs::write(&file, "{").unwrap();
    let (mut tally, damaged) = Tally::open(&file).unwrap();
    let damaged = damaged.unwrap();
    assert_eq!(damaged.kept, folder.path().join("counts.json.damaged"));
    assert_eq!(std::fs::read_to_string(&damaged.kept).unwrap(), "{");
    tally.observe(&world(vec![migration("1", "Succeeded", 4)])).unwrap();
    let text = metrics::text(&World::default(), &open(&file), Format::OpenMetrics);
    assert!(text.contains("whimbrel_migrations_total{outcome=\"Succeeded\",reason=\"\"} 1"), "{text}");
}

#[test]
fn counts_of_a_later_release_are_taken_as_far_as_they_are_understood() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("counts.json");
    std::fs::write(&file, r#"{"transferred_bytes": 7, "colour": "red"}"#).unwrap();
    let text = metrics::text(&World::default(), &open(&file), Format::OpenMetrics);
    assert!(text.contains("whimbrel_migration_transferred_bytes_total 7"), "{text}");
}

/// On Kubernetes counts are in an object, which the next leader reads.
#[test]
fn the_next_leader_goes_on_where_the_last_one_has_counted() {
    let first = world(vec![migration("1", "Succeeded", 4), migration("2", "Failed", 0)]);
    let mut tally = Tally::new();
    assert!(tally.count(&first));
    let mut next = Tally::from_text(&tally.to_text()).unwrap();
    assert!(!next.count(&first), "they are counted");
    assert!(next.count(&world(vec![migration("1", "Succeeded", 4), migration("3", "Succeeded", 4)])));
    let text = metrics::text(&World::default(), &next, Format::OpenMetrics);
    assert!(text.contains("whimbrel_migrations_total{outcome=\"Succeeded\",reason=\"\"} 2"), "{text}");
    assert!(Tally::from_text("{").is_err());
}

#[test]
fn what_is_kept_stays_small_however_many_there_were_and_none_is_counted_twice() {
    let ended = |uid: u32| {
        let mut over = migration(&format!("{uid:032}"), "Succeeded", 4);
        let time = jiff::Timestamp::from_second(1_800_000_000 + i64::from(uid)).unwrap();
        over.status.as_mut().unwrap().enter(objects::MigrationPhase::Failed, &Time(time));
        over
    };
    let all = world((0..5000).map(ended).collect());
    let mut tally = Tally::new();
    assert!(tally.count(&all));
    for _ in 0..3 {
        tally = Tally::from_text(&tally.to_text()).unwrap();
        assert!(!tally.count(&all), "they are counted");
    }
    assert!(tally.to_text().len() < 100_000, "{}", tally.to_text().len());
    assert!(tally.count(&world((0..5001).map(ended).collect())));
    let text = metrics::text(&World::default(), &tally, Format::OpenMetrics);
    let count = text.lines().filter(|line| line.starts_with("whimbrel_migrations_total{outcome=\"Failed\""));
    let sum: f64 = count.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum();
    assert!((sum - 5001.0).abs() < 0.5, "{text}");
}

#[test]
fn every_reason_of_failure_is_there_before_a_migration_fails() {
    let text = metrics::text(&World::default(), &Tally::default(), Format::OpenMetrics);
    let kinds = objects::kinds();
    let kind = kinds.iter().find(|kind| kind.names.kind == "VirtualMachineInstanceMigration").unwrap();
    let state = &kind.schema["properties"]["status"]["properties"]["migrationState"];
    let reasons = state["properties"]["failure"]["properties"]["reason"]["enum"].as_array();
    for reason in reasons.unwrap() {
        let reason = reason.as_str().unwrap();
        let line = format!("whimbrel_migrations_total{{outcome=\"Failed\",reason=\"{reason}\"}} 0");
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
}

#[test]
fn promtool_finds_nothing_wrong() {
    let Some(()) = promtool() else { return };
    let text =
        metrics::text(&world(vec![migration("3", "Running", 0)]), &Tally::default(), Format::Prometheus);
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success() && said.trim().is_empty(), "{said}\n{text}");
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/metrics");
    for (what, file) in [("check", "rules.yaml"), ("test", "rules.test.yaml")] {
        let output =
            Command::new("promtool").args([what, "rules", file]).current_dir(&deploy).output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.success(), "{said}");
    }
}

#[test]
fn every_figure_of_the_dashboard_and_of_the_rules_is_there() {
    let all =
        metrics::text(&world(vec![migration("3", "Running", 0)]), &Tally::default(), Format::Prometheus);
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/metrics");
    for file in ["rules.yaml", "dashboard.json"] {
        let text = std::fs::read_to_string(deploy.join(file)).unwrap();
        let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        let names: Vec<_> =
            words.filter(|word| word.starts_with("whimbrel_") || word.starts_with("kubevirt_")).collect();
        assert!(!names.is_empty());
        for name in names {
            let family = name.trim_end_matches("_bucket").trim_end_matches("_sum").trim_end_matches("_count");
            let is_there = [name, family].iter().any(|name| all.contains(&format!("# TYPE {name} ")));
            assert!(is_there, "{name} of {file} is no figure of ours");
        }
    }
}

/// Nothing, loudly, where there is no promtool.
fn promtool() -> Option<()> {
    if Command::new("promtool").arg("--version").output().is_err() {
        eprintln!("SKIPPED: FIGURES AND RULES WERE NOT CHECKED. There is no promtool (Debian: prometheus)");
        return None;
    }
    Some(())
}
