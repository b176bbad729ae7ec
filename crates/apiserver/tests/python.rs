//! The Python client of Kubernetes against the real server. Skipped, loudly, where it is not installed.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

#[expect(dead_code, reason = "other tests use the rest of it")]
mod support;

use std::process::Command;

use serde_json::json;
use support::Fixture;

#[test]
fn scripts_make_watch_patch_and_delete_machines() {
    let found = Command::new("python3").args(["-c", "import kubernetes"]).output();
    if !found.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: THERE IS NO PYTHON CLIENT OF KUBERNETES");
        return;
    }
    let fixture = Fixture::start();
    let manifest = json!({
        "apiVersion": "whimbrel.dev/v1", "kind": "VirtualMachine",
        "metadata": { "name": "busy", "labels": { "app": "busy" } },
        "spec": { "runStrategy": "Always", "template": { "spec": { "domain": {
            "memory": { "guest": "256Mi" },
            "firmware": { "kernelBoot": { "container": { "image": "whimbrel.dev/workload" } } },
        }}}},
    });
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/client.py");
    let output = Command::new("python3")
        .arg(script)
        .arg(fixture.kubeconfig("admin"))
        .arg(manifest.to_string())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
