//! `whimbrel ca`, as a newcomer uses it.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

use std::{path::Path, time::Duration};

use assert_cmd::Command;

/// Runs `whimbrel ca` there. Returns whether it succeeded, and all that it said.
fn ca(folder: &Path, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::cargo_bin("whimbrel").unwrap();
    command.current_dir(folder).arg("ca").args(arguments).timeout(Duration::from_secs(60));
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (output.status.success(), said)
}

#[test]
fn two_hosts_have_what_they_need_in_two_commands() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (done, said) = ca(folder, &["init"]);
    assert!(done && said.contains("whimbrel ca issue"), "{said}");
    let (done, said) = ca(folder, &["issue", "host-a,10.0.0.1", "host-b,spiffe://x/b", "--days", "30"]);
    assert!(done && said.contains("--tls-authz 'host-a;host-b'"), "{said}");
    let (done, said) = ca(folder, &["show", "host-b"]);
    assert!(done, "{said}");
    for part in ["CN=host-b", "dns:host-b, uri:spiffe://x/b", "29 days left", "to receive", "to send"] {
        assert!(said.contains(part), "'{said}' says nothing of '{part}'");
    }
    // Again on what is there: renewed.
    let (done, _) = ca(folder, &["issue", "host-b", "--days", "10"]);
    let (_, said) = ca(folder, &["show", "host-b"]);
    assert!(done && said.contains("Warning") && said.contains("issue another before"), "{said}");
}

#[test]
fn what_was_taken_back_is_said_to_be_of_use_only_where_it_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    ca(folder, &["init"]);
    ca(folder, &["issue", "host-a"]);
    let (done, said) = ca(folder, &["revoke", "host-a"]);
    assert!(done && said.contains("ca-crl.pem") && folder.join("whimbrel-ca/ca-crl.pem").exists(), "{said}");
}

#[test]
fn what_cannot_be_done_is_said_in_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for (arguments, told) in [
        (&["issue", "host-a"][..], "ca-cert.pem cannot be read"),
        (&["show", "nowhere"], "there is no ca-cert.pem"),
        (&["revoke", "nowhere"], "ca-cert.pem cannot be read"),
        (&["init", "--name", "a=b"], "'a=b' cannot be in a certificate"),
        (&["issue", "host-a", "--days", "0"], "0"),
    ] {
        let (done, said) = ca(folder, arguments);
        assert!(!done && said.contains(told), "{arguments:?}: {said}");
    }
    ca(folder, &["init"]);
    let (done, said) = ca(folder, &["init"]);
    assert!(!done && said.contains("is there already"), "{said}");
    let (done, said) = ca(folder, &["issue", "no name"]);
    assert!(!done && said.contains("'no name' cannot be in a certificate"), "{said}");
}
