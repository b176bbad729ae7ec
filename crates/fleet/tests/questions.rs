//! What people ask before they act: plans with the origin of each value, and what a policy would change.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

#[expect(dead_code, reason = "other tests use the rest of it")]
mod support;

use objects::{Fleet, MigrationPlanSpec, MigrationPolicy, Origin};
use serde_json::json;
use support::Site;

fn site() -> Site {
    let mut site = Site::default();
    site.node("a", 8).node("b", 8).machine("db", "Always", 2);
    site.settle(0);
    site.run_instances(1);
    site.settle(2);
    site
}

fn asked(deadline_seconds: Option<u32>) -> MigrationPlanSpec {
    MigrationPlanSpec { vmi_name: "db".to_owned(), deadline_seconds, ..MigrationPlanSpec::default() }
}

fn policy(name: &str, spec: &serde_json::Value) -> MigrationPolicy {
    serde_json::from_value(json!({ "metadata": { "name": name }, "spec": spec })).unwrap()
}

#[test]
fn a_plan_says_where_each_value_comes_from_and_why_nothing_would_begin() {
    let mut site = site();
    let fleet = json!({
        "metadata": { "name": "fleet" },
        "spec": { "configuration": { "migrations": { "bandwidthPerMigration": "1G" } } },
    });
    site.world.fleets.push(std::sync::Arc::new(serde_json::from_value::<Fleet>(fleet).unwrap()));
    site.policy("all", &json!({ "selectors": {}, "allowPostCopy": true }));
    let plan = fleet::plan::plan(&site.world, site.instance("db"), &asked(None));
    let status = plan.status();
    let origin = |name: &str| status.origins[name];
    assert_eq!(
        (origin("allowPostCopy"), origin("bandwidthPerMigration"), origin("channels")),
        (Origin::Policy, Origin::Fleet, Origin::Default)
    );
    assert_eq!(
        origin("allowWorkloadDisruption"),
        Origin::Policy,
        "it follows post-copy, which the policy allows"
    );
    assert_eq!(status.why_not, None);
    assert_eq!(status.nodes.iter().filter(|node| node.fits).count(), 1);
    for node in ["a", "b"] {
        site.cordon(node);
    }
    let plan = fleet::plan::plan(&site.world, site.instance("db"), &asked(None));
    assert_eq!(plan.why_not().as_deref(), Some("no node fits"));
    assert!(plan.status().nodes.iter().all(|node| node.reasons.contains(&"it is cordoned".to_owned())));
}

#[test]
fn a_deadline_of_a_migration_counts_instead_of_its_policys() {
    let mut site = site();
    site.policy("all", &json!({ "selectors": {}, "deadlineSeconds": 600 }));
    let deadline = |seconds| {
        let status = fleet::plan::plan(&site.world, site.instance("db"), &asked(seconds)).status();
        (status.migration_configuration.deadline_seconds, status.origins["deadlineSeconds"])
    };
    assert_eq!(deadline(None), (Some(600), Origin::Policy));
    assert_eq!(deadline(Some(60)), (Some(60), Origin::Migration));
    assert_eq!(deadline(Some(0)), (Some(0), Origin::Migration));
}

#[test]
fn a_preview_says_whom_a_policy_would_take_from_which_other() {
    let mut site = site();
    site.policy("all", &json!({ "selectors": {}, "channels": 2 }));
    let wanted = policy("more", &json!({ "selectors": { "namespaceSelector": {} }, "channels": 4 }));
    let preview = fleet::preview::preview(&site.world, "more", Some(wanted));
    assert_eq!((preview.applies, preview.changed), (0, 0), "as many labels, and its name comes later");
    let wanted = policy("a-first", &json!({ "selectors": {}, "channels": 4 }));
    let preview = fleet::preview::preview(&site.world, "a-first", Some(wanted));
    let change = preview.changes.first().unwrap();
    assert_eq!((change.before.as_deref(), change.after.as_deref()), (Some("all"), Some("a-first")));
    assert_eq!(change.values.len(), 1, "{change:?}");
    assert_eq!((preview.instances, preview.applies, preview.changed), (1, 1, 1));
    let gone = fleet::preview::preview(&site.world, "all", None);
    let change = gone.changes.first().unwrap();
    assert_eq!((change.before.as_deref(), change.after.as_deref(), gone.applies), (Some("all"), None, 0));
}

#[test]
fn a_preview_lists_a_hundred_and_counts_the_others() {
    let mut site = site();
    let one = site.instance("db").clone();
    for number in 0..150 {
        let mut other = one.clone();
        other.metadata.name = Some(format!("db-{number}"));
        site.world.instances.push(std::sync::Arc::new(other));
    }
    let wanted = policy("all", &json!({ "selectors": {}, "channels": 2 }));
    let preview = fleet::preview::preview(&site.world, "all", Some(wanted));
    assert_eq!((preview.changed, preview.changes.len()), (151, 100));
}
