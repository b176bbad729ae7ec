//! The Python package `qemu.qmp` drives the real machine.

use std::process::{Command, Stdio};

use crate::harness::{Lab, Spec, Story, skipped};

/// The script, which checks every answer that it gets.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../monitor/tests/python/qmp_client.py");

/// The release of the package that the script was written for.
const PACKAGE: &str = "qemu.qmp==0.0.6";

#[test]
fn the_python_client_drives_a_machine_and_its_migration() {
    let Some(lab) = Lab::new() else { return };
    let venv = lab.path("venv");
    let python = venv.join("bin/python");
    let install = Command::new("python3").args(["-m", "venv"]).arg(&venv).output();
    if !install.is_ok_and(|output| output.status.success()) {
        return skipped("there is no Python that makes virtual environments");
    }
    let install = Command::new(&python)
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1", PACKAGE])
        .output()
        .unwrap();
    if !install.status.success() {
        return skipped(&format!(
            "{PACKAGE} cannot be installed: {}",
            String::from_utf8_lossy(&install.stderr)
        ));
    }

    let spec = Spec::calm();
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    let mut story = Story::of(&source);
    story.filled();
    let uri = destination.listen();
    let output = Command::new("timeout")
        .args(["--kill-after", "5", "120"])
        .arg(&python)
        .arg(SCRIPT)
        .arg(source.monitor_path())
        .args(["--migrate-to", &uri, "--quit", "--destination"])
        .arg(destination.monitor_path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{errors}");
    assert!(source.end().success());
    story.goes_on_at(&destination);
    story.goes_on(2);
    story.assert_intact();
}
