//! Migrations that failed for a reason that may pass, and are tried again.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

#[expect(dead_code, reason = "other tests use the rest of it")]
mod support;

use std::sync::Arc;

use objects::{FailureReason, MigrationPhase, condition};
use serde_json::json;
use support::Site;

/// A machine on node a, whose migrations are tried again so often, and one that was not ready in time, 123 s after the beginning.
fn timed_out(retries: u32) -> Site {
    let mut site = Site::default();
    site.node("a", 8).node("b", 4).machine("db", "Always", 1);
    site.policy("again", &json!({ "selectors": {}, "retryLimit": retries }));
    site.settle(0);
    site.run_instances(1);
    site.migrate("m", "db", &json!({}));
    site.settle(2);
    site.settle(123);
    assert_eq!(site.state("m").failure.unwrap().reason, FailureReason::TargetTimeout);
    site
}

fn names(site: &Site) -> Vec<String> {
    site.world.migrations.iter().map(|one| one.metadata.name.clone().unwrap()).collect()
}

/// What is said of another attempt: reason and sentence.
fn said(site: &Site, name: &str) -> Option<(String, String)> {
    let status = site.migration(name).status.clone().unwrap();
    let found = condition(&status.conditions, "Retry").cloned();
    found.map(|found| (found.reason.unwrap(), found.message.unwrap()))
}

#[test]
fn it_is_tried_again_later_each_time_and_no_more_often_than_is_allowed() {
    let mut site = timed_out(2);
    let (reason, sentence) = said(&site, "m").unwrap();
    assert_eq!(reason, "BackOff");
    assert!(sentence.contains("as attempt 2 of 3"), "{sentence}");
    site.settle(132);
    assert_eq!(names(&site), ["m"]);
    site.settle(133);
    assert_eq!(names(&site), ["m", "m-try2"]);
    assert_eq!(said(&site, "m").unwrap(), ("Retried".to_owned(), "It is tried again as m-try2.".to_owned()));
    assert_eq!(site.phase("m-try2"), MigrationPhase::Scheduled);
    site.settle(254);
    assert!(said(&site, "m-try2").unwrap().1.contains("as attempt 3 of 3"));
    site.settle(273);
    assert_eq!(names(&site).len(), 2, "twice as long as the first time");
    site.settle(274);
    assert_eq!(names(&site), ["m", "m-try2", "m-try3"]);
    site.settle(395);
    site.settle(10_000);
    assert_eq!(said(&site, "m-try3"), None, "that was the last");
    assert_eq!(names(&site).len(), 3);
}

#[test]
fn what_was_cancelled_or_is_not_allowed_is_not_tried_again() {
    let mut site = timed_out(0);
    site.settle(1000);
    assert_eq!((names(&site).len(), said(&site, "m")), (1, None));
    let mut site = timed_out(2);
    site.cancel("m");
    site.settle(1000);
    assert_eq!(said(&site, "m").unwrap().1, "It is not tried again: it was cancelled.");
    assert_eq!(names(&site), ["m"]);
}

#[test]
fn a_machine_that_ended_or_was_asked_to_move_again_is_left_alone() {
    let mut site = timed_out(2);
    site.end_instance("db", objects::InstancePhase::Succeeded, 124);
    site.settle(140);
    assert!(said(&site, "m").unwrap().1.contains("does not run there any more"));
    let mut site = timed_out(2);
    site.migrate("own", "db", &json!({}));
    site.settle(140);
    assert_eq!(said(&site, "m").unwrap().1, "It is not tried again: own has come after it.");
    assert_eq!(names(&site), ["m", "own"]);
}

#[test]
fn an_attempt_that_could_not_be_told_of_is_made_once() {
    let mut site = timed_out(2);
    let untold = site.migration("m").clone();
    site.settle(133);
    for own in site.world.migrations.iter_mut().filter(|own| own.metadata.name == untold.metadata.name) {
        *own = Arc::new(untold.clone());
    }
    site.settle(134);
    assert_eq!(names(&site), ["m", "m-try2"]);
    assert_eq!(said(&site, "m").unwrap().0, "Retried");
}
