//! Whoever decides is killed in the middle of what it writes for a drain, and two of them decide at once.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

#[expect(dead_code, reason = "other tests use the rest of it")]
mod support;

use objects::{DrainPhase, NodeDrainStatus};
use serde_json::json;
use support::Site;

/// Four machines on the first of three nodes, of which two may leave at a time, and a drain of that node.
fn site() -> Site {
    let mut site = Site::default();
    site.node("a", 16);
    for index in 0..4 {
        site.machine(&format!("m{index}"), "Always", 1);
    }
    site.settle(0);
    site.run_instances(1);
    site.node("b", 16).node("c", 16);
    site.settle(1);
    site.limits(&json!({ "parallelMigrationsPerCluster": 5, "parallelOutboundMigrationsPerNode": 2 }));
    site.empty("d", &json!({ "nodes": ["a", "b"], "minAvailable": 1 }));
    site
}

fn status(site: &Site) -> NodeDrainStatus {
    site.drain("d").status.clone().unwrap_or_default()
}

/// Plays a drain to its end; `lives` says whether whoever decides lives through its next write. The next one begins with nothing but the objects.
fn play(what: &str, lives: &mut impl FnMut() -> bool) {
    let mut site = site();
    let mut since = 0;
    for second in 10.. {
        assert!(second < 1000, "{what}: it does not end: {:#?}", status(&site));
        site.decide_while(second, lives);
        assert!(site.under_way().len() <= 4, "{what}: more than may leave two nodes at a time");
        if status(&site).phase().is_final() {
            break;
        }
        // Agents take their time: what was begun goes on while others decide.
        since += 1;
        if since % 3 == 0 {
            site.agents_end();
        }
    }
    let seen = status(&site);
    assert_eq!((seen.phase(), seen.left), (DrainPhase::Succeeded, 0), "{what}");
    // From the first node to the third, and none of them twice.
    assert_eq!(
        (site.world.migrations.len(), seen.moved),
        (4, 4),
        "{what}: a machine was asked to move twice"
    );
    assert!(site.is_cordoned("a") && site.is_cordoned("b") && !site.is_cordoned("c"), "{what}");
    assert_eq!(site.taken("c"), 4, "{what}");
}

#[test]
fn a_leader_that_is_killed_between_any_two_writes_changes_nothing_of_a_drain() {
    let mut writes = 0;
    play("nobody is killed", &mut || {
        writes += 1;
        true
    });
    assert!(writes > 20, "{writes}");
    for killed in 1..=writes {
        let mut written = 0;
        play(&format!("killed after write {killed}"), &mut || {
            written += 1;
            written != killed
        });
    }
    play("killed after each write", &mut || false);
}

/// By a clock that jumped two lead for a moment. What the second of them writes was decided on objects that the first has changed since: a
/// server refuses it by its revision, or by its name where it is new. What neither stops, patches, says what the first has said.
#[test]
fn two_leaders_that_decide_at_once_ask_for_nothing_twice() {
    let mut site = site();
    for second in 10.. {
        assert!(second < 1000, "it does not end: {:#?}", status(&site));
        let (before, migrations) = (site.world.clone(), site.world.migrations.len());
        site.decide_while(second, &mut || true);
        let begun = site.world.migrations.len() - migrations;
        // The other one has not heard of it, and has a clock of its own.
        let theirs = fleet::decide(&before, &support::at(second + 30));
        let ours = fleet::decide(&before, &support::at(second));
        let names = |intents: &[fleet::Intent]| -> Vec<String> {
            let created = intents.iter().filter_map(|intent| match intent {
                fleet::Intent::CreateMigration(migration, _) => migration.metadata.name.clone(),
                _ => None,
            });
            created.collect()
        };
        assert_eq!(names(&theirs), names(&ours), "the second would make others");
        assert_eq!(names(&ours).len(), begun);
        if status(&site).phase().is_final() {
            break;
        }
        site.agents_end();
    }
    assert_eq!(site.world.migrations.len(), 4);
}
