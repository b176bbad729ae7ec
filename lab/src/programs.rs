//! Programs of this machine that the lab runs, and programs of this project that run in the lab.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::LabError;

/// The target whose standard library is there, and which can be linked statically.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Lines of a failed program that are worth showing.
const SHOWN_LINES: usize = 15;

/// What the lab runs on this machine, and the Debian packages that have it.
const NEEDED: [(&str, &str); 9] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("apt-get", "apt"),
    ("apt-cache", "apt"),
    ("dpkg-deb", "dpkg"),
    ("xz", "xz-utils"),
    ("mke2fs", "e2fsprogs"),
    ("e2fsck", "e2fsprogs"),
    ("setpriv", "util-linux"),
    ("nice", "coreutils"),
];

/// Programs that are to run in hosts and guests.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `whimbrel-vmm`.
    pub vmm: PathBuf,
    /// `whimbrel`.
    pub tool: PathBuf,
    /// `whimbrel-lab-agent`.
    pub agent: PathBuf,
}

/// Looks whether all programs are there.
///
/// # Errors
/// The first that is not.
pub(crate) fn check_this_machine() -> Result<(), LabError> {
    let missing = NEEDED.iter().find(|(program, _)| find(program).is_none());
    missing.map_or(Ok(()), |(program, package)| Err(LabError::MissingProgram { program, package }))
}

/// Where a program is. Administrators' programs may be out of the path of a user.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(more).map(|folder| folder.join(program)).find(|file| file.is_file())
}

impl Programs {
    /// Builds them, linked statically, since hosts have no libraries. With the variable `WHIMBREL_VMM`, the `whimbrel-vmm` at that
    /// path, which must be linked so too, is taken instead.
    ///
    /// # Errors
    /// They do not build.
    pub fn build() -> Result<Self, LabError> {
        let target = target_directory().join("lab").join("build");
        let given = env::var_os("WHIMBREL_VMM").map(PathBuf::from);
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo
            .args(["build", "--locked", "--quiet", "--target", TARGET])
            .args(["--package", "whimbrel-lab-agent", "--package", "whimbrel"])
            .args(if given.is_none() { &["--package", "whimbrel-vmm"][..] } else { &[] })
            .arg("--target-dir")
            .arg(&target)
            .current_dir(workspace())
            // It would be taken instead.
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env("RUSTFLAGS", "-C target-feature=+crt-static -C strip=debuginfo");
        run(&mut cargo)?;
        let built = target.join(TARGET).join("debug");
        Ok(Self {
            vmm: given.unwrap_or_else(|| built.join("whimbrel-vmm")),
            tool: built.join("whimbrel"),
            agent: built.join("whimbrel-lab-agent"),
        })
    }
}

/// Runs a program to its end and returns what it wrote on standard output.
pub(crate) fn run(command: &mut Command) -> Result<Vec<u8>, LabError> {
    let name = format!("{command:?}").replace('"', "");
    let output = command.stdin(Stdio::null()).output().map_err(|source| LabError::Program {
        command: name.clone(),
        status: "not started".into(),
        said: source.to_string(),
    })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = last_lines(&String::from_utf8_lossy(&output.stderr), SHOWN_LINES);
    Err(LabError::Program { command: name, status: output.status.to_string(), said })
}

/// The end of a text.
pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// The root of this repository.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

/// Where cargo puts what it builds.
pub(crate) fn target_directory() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), |path| workspace().join(path))
}
