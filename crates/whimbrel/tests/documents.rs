//! What the program prints for others to use: definitions of kinds, manual pages, completion, bundles for support.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

use std::{fs, path::Path, process::Output};

use assert_cmd::Command;

fn whimbrel(arguments: &[&str]) -> Output {
    let mut command = Command::cargo_bin("whimbrel").unwrap();
    let output = command.args(arguments).env_remove("KUBECONFIG").output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
fn the_definitions_that_are_delivered_are_those_of_the_program() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/kubernetes/crds.yaml");
    let said = String::from_utf8(whimbrel(&["crds"]).stdout).unwrap();
    let is_same = fs::read_to_string(&path).unwrap() == said;
    assert!(is_same, "kinds have changed: whimbrel crds >deploy/kubernetes/crds.yaml");
    let without = String::from_utf8(whimbrel(&["crds", "--without-rules"]).stdout).unwrap();
    assert!(said.contains("x-kubernetes-validations") && !without.contains("x-kubernetes-validations"));
}

#[test]
fn every_command_has_a_manual_page_and_is_completed() {
    let folder = tempfile::tempdir().unwrap();
    whimbrel(&["manual", folder.path().to_str().unwrap()]);
    for page in
        ["whimbrel", "whimbrel-vmm", "whimbrel-migrate", "whimbrel-ca-issue", "whimbrel-support-bundle"]
    {
        let text = fs::read_to_string(folder.path().join(format!("{page}.1"))).unwrap();
        assert!(text.contains(".SH SYNOPSIS"), "{text}");
    }
    assert!(!folder.path().join("whimbrel-manual.1").exists(), "it is for packagers");
    for shell in ["bash", "zsh", "fish"] {
        let text = String::from_utf8(whimbrel(&["completion", shell]).stdout).unwrap();
        assert!(text.contains("support-bundle"), "{text}");
        let text = whimbrel(&["completion", shell, "--program", "whimbrel-vmm"]).stdout;
        assert!(String::from_utf8(text).unwrap().contains("incoming"));
    }
}

#[test]
fn a_bundle_tells_what_happened_and_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("fleet");
    let machine = dir.join("node-a/vmms/busy");
    fs::create_dir_all(machine.join("reports")).unwrap();
    for name in ["tokens", "ca", "node-a/tls"] {
        fs::create_dir_all(dir.join(name)).unwrap();
    }
    let token = "b7c1d9a2e4f60718293a4b5c6d7e8f90b7c1d9a2e4f60718293a4b5c6d7e8f90";
    let key = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMG\n-----END PRIVATE KEY-----\n";
    for (name, text) in [
        ("tokens/admin", token.to_owned()),
        ("ca/ca-key.pem", key.to_owned()),
        ("node-a/tls/server-key.pem", key.to_owned()),
        ("kubeconfig", format!("{{\"token\": \"{token}\"}}")),
        ("store.redb", token.to_owned()),
        ("whimbrel.log", format!("it began\nAuthorization: Bearer {token}\nand {token} again\n{key}")),
        ("node-a/vmms/busy/vm.yaml", "cmdline: quiet db_password=hunter2\nname: busy\n".to_owned()),
        ("node-a/vmms/busy/vmm.log", "the disk is full\n".to_owned()),
        ("node-a/vmms/busy/serial.log", "a guest's own words\n".to_owned()),
        ("node-a/vmms/busy/reports/1.json", "{\"outcome\": \"failed\"}".to_owned()),
    ] {
        fs::write(dir.join(name), text).unwrap();
    }
    let bundle = folder.path().join("bundle.tar");
    let nowhere = folder.path().join("nowhere");
    let [bundle_name, dir_name, nowhere] = [&bundle, &dir, &nowhere].map(|path| path.to_str().unwrap());
    whimbrel(&["support-bundle", "--output", bundle_name, "--dir", dir_name, "--kubeconfig", nowhere]);
    let text = String::from_utf8_lossy(&fs::read(&bundle).unwrap()).into_owned();
    for secret in [token, "MIGHAgEAMBMG", "hunter2", "a guest's own words"] {
        assert!(!text.contains(secret), "{secret} is in it");
    }
    for told in ["it began", "the disk is full", "name: busy", "\"outcome\": \"failed\"", "whimbrel 0."] {
        assert!(text.contains(told), "{told} is missing");
    }
    // One that is there is not written over.
    let mut again = Command::cargo_bin("whimbrel").unwrap();
    again.args(["support-bundle", "--output", bundle_name, "--dir", dir_name]).assert().failure();
}
