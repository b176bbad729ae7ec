//! Programs of other packages that tests run.

use std::{
    fs::OpenOptions,
    path::{Path, PathBuf},
};

/// The VMM beside the program under test, which is built if it is not there. `None`, loudly, without KVM.
pub(crate) fn vmm() -> Option<PathBuf> {
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        eprintln!("SKIPPED: NO VIRTUAL MACHINE WAS RUN. Cannot open /dev/kvm: {error}");
        return None;
    }
    let program = assert_cmd::cargo::cargo_bin("whimbrel");
    let vmm = program.with_file_name("whimbrel-vmm");
    if !vmm.exists() {
        // Cargo builds the programs of the package under test, and no others.
        let profile = if program.parent().unwrap().ends_with("release") { "release" } else { "dev" };
        let status = std::process::Command::new(env!("CARGO"))
            .args(["build", "--locked", "--package", "whimbrel-vmm", "--profile", profile, "--target-dir"])
            .arg(program.parent().unwrap().parent().unwrap())
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
            .status()
            .unwrap();
        assert!(status.success(), "building whimbrel-vmm: {status}");
    }
    Some(vmm)
}
