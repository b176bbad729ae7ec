//! Migrations that fail for a reason that passes.

use serde_json::Value;

use super::Fleet;

/// What is said of whether a migration is tried again: reason and message.
fn retry(migration: &Value) -> (String, String) {
    let conditions = migration["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.into_iter().find(|one| one["type"] == "Retry").unwrap_or_default();
    let said = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    (said("reason"), said("message"))
}

#[test]
fn a_migration_whose_target_dies_is_tried_again_after_a_rest_that_is_said_and_succeeds() {
    let Some(fleet) = Fleet::start() else { return };
    // Without an end of its own, so that it dies on its way.
    fleet.policy("bandwidthPerMigration: 4Mi\nretryLimit: 2");
    fleet.machine("50M");
    let before = fleet.get("vmi/busy");
    fleet.migration("m");
    let running = fleet.wait_phase("vmim/m", "Running");
    let target = running["status"]["migrationState"]["targetVmm"].as_str().unwrap();
    fleet.kill_vmm(target);
    let failed = fleet.wait("vmim/m", |seen| retry(seen).0 == "BackOff");
    assert_eq!(failed["status"]["phase"], "Failed");
    let message = retry(&failed).1;
    let (until, attempt) =
        message.strip_prefix("It is tried again at ").and_then(|rest| rest.split_once(", ")).unwrap();
    assert_eq!(attempt, "as attempt 2 of 3.");
    let during = fleet.get("vmi/busy");
    assert_eq!(
        (&during["status"]["phase"], &during["status"]["vmm"]),
        (&"Running".into(), &before["status"]["vmm"])
    );
    fleet.kubectl(r#"patch migrationpolicy slow --type=merge -p {"spec":{"bandwidthPerMigration":"1Gi"}}"#);
    let again = fleet.wait_phase("vmim/m-try2", "Succeeded");
    // Both are times of the same form, to the second.
    let created = again["metadata"]["creationTimestamp"].as_str().unwrap();
    let ended = failed["status"]["migrationState"]["endTimestamp"].as_str().unwrap();
    assert!(ended < until && until <= created, "{ended}, {until}, {created}");
    let annotations = &again["metadata"]["annotations"];
    assert_eq!(
        (&annotations["whimbrel.dev/retry-of"], &annotations["whimbrel.dev/attempt"]),
        (&"m".into(), &"2".into())
    );
    let said = retry(&fleet.get("vmim/m"));
    assert_eq!(said, ("Retried".to_owned(), "It is tried again as m-try2.".to_owned()));
    let after = fleet.wait("vmi/busy", |seen| seen["status"]["nodeName"] != before["status"]["nodeName"]);
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    fleet.wait_vmms((1, 1));
}
