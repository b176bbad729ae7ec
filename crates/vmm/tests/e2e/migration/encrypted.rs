//! Migrations that are encrypted, and those that must not come to be.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use authority::{Authority, Request};
use monitor::types::{MigrationStatus, RunState};
use serde_json::json;

use crate::harness::{Lab, Spec, Story, holds, until};

/// An authority, and what it has issued to a source and to a destination on this host.
struct Trusted {
    authority: Authority,
    source: PathBuf,
    destination: PathBuf,
}

impl Trusted {
    fn new(lab: &Lab) -> Self {
        let authority = Authority::init(&lab.path("ca"), "Example CA").unwrap();
        let (source, destination) = (lab.path("tls-source"), lab.path("tls-destination"));
        authority.issue(&source, &Request::new(["host-a", "uri://host/a"])).unwrap();
        authority.issue(&destination, &Request::new(["127.0.0.1", "host-b"])).unwrap();
        Self { authority, source, destination }
    }

    fn at_source(&self, spec: &Spec) -> Spec {
        spec.clone().with(&["--tls", self.source.to_str().unwrap()])
    }

    fn at_destination(&self, spec: &Spec, who: &str) -> Spec {
        spec.clone().with(&["--tls", self.destination.to_str().unwrap(), "--tls-authz", who])
    }
}

#[test]
fn a_machine_moves_encrypted_there_and_back_and_both_sides_say_with_whom() {
    let Some(lab) = Lab::new() else { return };
    let trusted = Trusted::new(&lab);
    let spec = Spec::new("work=16M rate=20M");
    let source = lab.boot(&trusted.at_source(&spec));
    let destination = lab.vacancy(&trusted.at_destination(&spec, "dns:host-a"));
    let mut story = Story::of(&source);
    story.filled();
    source.set(json!({ "multifd-channels": 3, "whimbrel-digest": "full" }));
    let info = source.moves_to(&destination, &destination.listen());
    let security = info.whimbrel.unwrap().security.unwrap();
    assert!(security.encrypted, "{security:?}");
    assert_eq!(security.protocol.as_deref(), Some("TLS 1.3"));
    assert_eq!(security.peer.unwrap().names, ["ip:127.0.0.1", "dns:host-b"]);
    let there = destination.query_migrate().whimbrel.unwrap().security.unwrap();
    assert_eq!(there.peer.unwrap().subject, "CN=host-a");
    let text = source.command("human-monitor-command", json!({ "command-line": "info migrate" })).to_string();
    assert!(
        text.contains("encryption: TLS 1.3") && text.contains("peer certificate: CN=127.0.0.1"),
        "{text}"
    );
    story.goes_on_at(&destination);
    story.goes_on(3);
    // Back again: what each side needs for the other direction is in the same directory.
    let back = lab.vacancy(&trusted.at_destination(&spec, "127.0.0.1"));
    destination.moves_to(&back, &back.listen());
    story.goes_on_at(&back);
    story.goes_on(3);
    story.assert_intact();
}

#[test]
fn what_is_wrong_with_certificates_is_said_at_start_and_the_machine_runs() {
    let Some(lab) = Lab::new() else { return };
    let trusted = Trusted::new(&lab);
    let spec = Spec::calm();
    let issue = |name: &str, change: fn(&mut Request)| {
        let directory = lab.path(name);
        let mut request = Request::new(["host-a"]);
        change(&mut request);
        trusted.authority.issue(&directory, &request).unwrap();
        directory
    };
    let readable = issue("readable", |_| {});
    fs::set_permissions(readable.join("client-key.pem"), fs::Permissions::from_mode(0o644)).unwrap();
    let mixed = issue("mixed", |_| {});
    fs::copy(mixed.join("server-cert.pem"), mixed.join("client-cert.pem")).unwrap();
    for (directory, told) in [
        (issue("ends-soon", |request| request.days = 13), "client-cert.pem ends in 12 days"),
        (issue("over", |request| request.days = -1), "client-cert.pem is valid from"),
        (readable, "client-key.pem can be read by every user"),
        (mixed, "client-key.pem is not the key of"),
        (lab.path("nowhere"), "nowhere has no ca-cert.pem"),
    ] {
        let vmm = lab.boot(&spec.clone().with(&["--tls", directory.to_str().unwrap()]));
        until(told, || vmm.log().contains(told).then_some(()));
        holds("it runs", || vmm.run_state() == RunState::Running);
    }
    // Of a place for machines both kinds are of interest, before it listens.
    let soon = issue("soon", |request| request.days = 3);
    let vmm = lab.vacancy(&spec.clone().with(&["--tls", soon.to_str().unwrap(), "--tls-authz", "*"]));
    for told in ["client-cert.pem ends in 2 days", "server-cert.pem ends in 2 days"] {
        until(told, || vmm.log().contains(told).then_some(()));
    }
}

#[test]
fn a_directory_for_destinations_alone_is_nothing_to_warn_of() {
    let Some(lab) = Lab::new() else { return };
    let trusted = Trusted::new(&lab);
    let directory = lab.path("servers");
    let mut request = Request::new(["host-b"]);
    (request.client, request.days) = (false, 13);
    trusted.authority.issue(&directory, &request).unwrap();
    let spec = Spec::calm().with(&["--tls", directory.to_str().unwrap(), "--tls-authz", "*"]);
    let vmm = lab.vacancy(&spec);
    // Its own kind is warned of; when that is said, the other one was looked at.
    until("the warning of its own", || vmm.log().contains("server-cert.pem ends").then_some(()));
    assert!(!vmm.log().contains("client"), "{}", vmm.log());
}

#[test]
fn pages_that_follow_a_machine_are_encrypted_and_so_is_a_recovery() {
    let Some(lab) = Lab::new() else { return };
    let trusted = Trusted::new(&lab);
    let spec = Spec::calm();
    let source = lab.boot(&trusted.at_source(&spec));
    let destination = lab.vacancy(&trusted.at_destination(&spec, "dns:host-a"));
    let mut story = Story::of(&source);
    story.filled();
    source.enable("postcopy-ram");
    source.set(json!({ "whimbrel-postcopy": "immediate", "max-postcopy-bandwidth": 1_000_000 }));
    let uri = destination.listen();
    source.migrate(&uri);
    source.migration_is(MigrationStatus::PostcopyActive);
    source.command("migrate-pause", json!({}));
    source.migration_is(MigrationStatus::PostcopyPaused);
    source.set(json!({ "max-postcopy-bandwidth": 0 }));
    source.command("migrate", json!({ "uri": uri, "resume": true }));
    let info = source.migration_is(MigrationStatus::Completed);
    assert!(info.whimbrel.unwrap().security.unwrap().encrypted);
    story.goes_on_at(&destination);
    story.goes_on(3);
    story.assert_intact();
}

#[test]
fn encryption_is_switched_on_by_the_monitor_too_and_a_bad_choice_is_refused_at_once() {
    let Some(lab) = Lab::new() else { return };
    let trusted = Trusted::new(&lab);
    let spec = Spec::calm();
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    let mut story = Story::of(&source);
    story.filled();
    let set = |directory: &PathBuf| json!({ "tls-creds": directory, "tls-authz": "dns:host-a", "tls-hostname": "host-b" });
    source.set(set(&trusted.source));
    destination.set(set(&trusted.destination));
    let uri = destination.listen_at(&format!("unix:{}", lab.path("migration").display()));
    for (file, told) in [("client-key.pem", "client-key.pem"), ("ca-cert.pem", "ca-cert.pem")] {
        let (path, aside) = (trusted.source.join(file), lab.path("aside"));
        fs::rename(&path, &aside).unwrap();
        let refused = source.refused("migrate", json!({ "uri": uri }));
        assert!(refused.contains(told), "{refused}");
        fs::rename(&aside, &path).unwrap();
    }
    let refused = source.refused("migrate-set-parameters", json!({ "tls-authz": "dns:" }));
    assert!(refused.contains("names nothing"), "{refused}");
    source.moves_to(&destination, &uri);
    story.goes_on_at(&destination);
    story.goes_on(2);
    story.assert_intact();
}

#[test]
fn a_machine_stays_where_it_is_if_one_side_does_not_trust_the_other() {
    let Some(lab) = Lab::new() else { return };
    let trusted = Trusted::new(&lab);
    let spec = Spec::calm();
    let source = lab.boot(&trusted.at_source(&spec));
    let mut story = Story::of(&source);
    story.filled();
    let stays = |destination: &Spec, told: &str| {
        let destination = lab.vacancy(destination);
        source.migrate(&destination.listen());
        let reason = source.migration_fails();
        assert!(reason.contains(told), "'{reason}' says nothing of '{told}'");
        story.goes_on(1);
        destination
    };
    stays(&trusted.at_destination(&spec, "dns:host-c"), "not in the list of sources that may come");
    stays(&spec, "TLS");
    trusted.authority.revoke(&trusted.source).unwrap();
    fs::copy(lab.path("ca/ca-crl.pem"), trusted.destination.join("ca-crl.pem")).unwrap();
    let waiting = stays(&trusted.at_destination(&spec, "dns:host-a"), "revoked");
    // Put right while the destination waits: it reads its files again.
    fs::remove_file(trusted.destination.join("ca-crl.pem")).unwrap();
    let address = waiting.query_migrate().socket_address.unwrap();
    let monitor::types::SocketAddress::Inet { host, port } = &address[0] else { unreachable!() };
    source.set(json!({ "tls-hostname": "host-c" }));
    source.migrate(&format!("tcp:{host}:{port}"));
    let reason = source.migration_fails();
    assert!(reason.contains("host-c"), "{reason}");
    source.set(json!({ "tls-hostname": "" }));
    source.migrate(&format!("tcp:{host}:{port}"));
    source.migration_is(MigrationStatus::Completed);
    story.goes_on_at(&waiting);
    story.goes_on(2);
    story.assert_intact();
}

#[test]
fn a_source_in_clear_is_told_that_the_destination_wants_encryption() {
    let Some(lab) = Lab::new() else { return };
    let trusted = Trusted::new(&lab);
    let spec = Spec::calm();
    let source = lab.boot(&spec);
    let story = Story::of(&source);
    story.filled();
    let destination = lab.vacancy(&trusted.at_destination(&spec, "*"));
    source.migrate(&destination.listen());
    let reason = source.migration_fails();
    assert!(reason.contains("TLS"), "{reason}");
    let own = source.query_migrate().whimbrel.unwrap();
    assert!(own.security.is_none_or(|security| !security.encrypted));
    story.goes_on(1);
    story.assert_intact();
}
