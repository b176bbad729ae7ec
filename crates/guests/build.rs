//! Builds the workload guest from `guests/workload`, which is a workspace of its own.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("Cargo sets CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("Cargo sets OUT_DIR"));
    let guest = here.join("../../guests/workload");
    for input in ["src", "Cargo.toml", "Cargo.lock", "build.rs", "link.ld"] {
        println!("cargo:rerun-if-changed={}", guest.join(input).display());
    }
    println!("cargo:rerun-if-changed=build.rs");
    let target = out.join("workload-target");
    build(&guest, &target);
    let built = target.join("release/whimbrel-workload");
    let elf = out.join("workload.elf");
    fs::copy(&built, &elf).unwrap_or_else(|error| panic!("Cannot copy {}: {error}", built.display()));
}

fn build(guest: &Path, target: &Path) {
    let cargo = env::var_os("CARGO").expect("Cargo sets CARGO");
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "--offline", "--locked", "--bin", "whimbrel-workload"]);
    command.arg("--manifest-path").arg(guest.join("Cargo.toml"));
    command.arg("--target-dir").arg(target);
    shield(&mut command);
    let status = command.status().unwrap_or_else(|error| panic!("Cannot run Cargo for the guest: {error}"));
    assert!(status.success(), "Building the workload guest in {} failed: {status}", guest.display());
}

/// Keeps what the host build was told (flags, wrappers, profiles, another target) away from the guest.
fn shield(command: &mut Command) {
    for (name, _) in env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        let of_profile = text.starts_with("CARGO_PROFILE_");
        let of_target = text.starts_with("CARGO_TARGET_") || text.starts_with("CARGO_CFG_");
        let of_build = text.starts_with("CARGO_BUILD_") || text.starts_with("CARGO_FEATURE_");
        let of_rustc = matches!(
            text,
            "RUSTFLAGS" | "RUSTC_WRAPPER" | "RUSTC_WORKSPACE_WRAPPER" | "RUSTC_LINKER" | "TARGET"
        );
        if of_profile || of_target || of_build || of_rustc {
            command.env_remove(&name);
        }
    }
    // Set and empty: this also overrides flags from a Cargo configuration file.
    command.env("CARGO_ENCODED_RUSTFLAGS", "");
}
