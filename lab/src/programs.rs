//! Programs of this machine that the lab runs, and programs of this project that run in the lab.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::LabError;

/// Lines of a failed program that are worth showing.
const SHOWN_LINES: usize = 15;

/// What the lab runs on this machine, and the Debian packages that have it.
const NEEDED: [(&str, &str); 11] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("apt-get", "apt"),
    ("apt-cache", "apt"),
    ("dpkg-deb", "dpkg"),
    ("xz", "xz-utils"),
    ("mke2fs", "e2fsprogs"),
    ("e2fsck", "e2fsprogs"),
    ("setpriv", "util-linux"),
    ("nice", "coreutils"),
    ("ldd", "libc-bin"),
    ("objcopy", "binutils"),
];

/// Programs that are to run in hosts and guests: as they are built for this machine, without what only debuggers read.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `whimbrel-vmm`.
    pub vmm: PathBuf,
    /// `whimbrel`.
    pub tool: PathBuf,
    /// `whimbrel-lab-agent`.
    pub agent: PathBuf,
    /// This machine's shared libraries that they need, which hosts and guests have at the same paths.
    pub libraries: Vec<PathBuf>,
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
    /// Builds them as the tests do: the variable `WHIMBREL_BUILD` has what cargo is to build where more was built already, so
    /// that nothing is built twice. With the variable `WHIMBREL_VMM`, the `whimbrel-vmm` at that path is taken instead; this
    /// machine's libraries must do for it.
    ///
    /// # Errors
    /// They do not build, or a library that they need is not there.
    pub fn build() -> Result<Self, LabError> {
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        let selected = env::var("WHIMBREL_BUILD").unwrap_or_else(|_| "--workspace --bins".into());
        cargo
            .args(["build", "--locked", "--quiet"])
            .args(selected.split_whitespace())
            .current_dir(workspace());
        run(&mut cargo)?;
        let built = target_directory().join("debug");
        let given = env::var_os("WHIMBREL_VMM").map(PathBuf::from);
        let folder = target_directory().join("lab/programs");
        fs::create_dir_all(&folder).map_err(LabError::file("create", &folder))?;
        let lean = |program: &Path, name: &str| lean(program, folder.join(name));
        let vmm = lean(&given.unwrap_or_else(|| built.join("whimbrel-vmm")), "whimbrel-vmm")?;
        let tool = lean(&built.join("whimbrel"), "whimbrel")?;
        let agent = lean(&built.join("whimbrel-lab-agent"), "whimbrel-lab-agent")?;
        let libraries = libraries(&[&vmm, &tool, &agent])?;
        Ok(Self { vmm, tool, agent, libraries })
    }
}

/// A copy of a program without symbols for debuggers, which would fill the memory of hosts.
fn lean(program: &Path, copy: PathBuf) -> Result<PathBuf, LabError> {
    run(Command::new("objcopy").arg("--strip-debug").arg(program).arg(&copy))?;
    Ok(copy)
}

/// The shared libraries of programs, their loader included, as ldd(1) names them: `name => path (address)`, or `path (address)`.
fn libraries(programs: &[&Path]) -> Result<Vec<PathBuf>, LabError> {
    let said = run(Command::new("ldd").args(programs))?;
    let said = String::from_utf8_lossy(&said);
    if let Some(line) = said.lines().find(|line| line.contains("not found")) {
        return Err(LabError::Wrong(format!("A library of the lab's programs is missing: {}", line.trim())));
    }
    let paths = said.lines().flat_map(str::split_ascii_whitespace).filter(|word| word.starts_with('/'));
    // A path with a colon behind it is the program itself.
    let paths: BTreeSet<_> = paths.filter(|path| !path.ends_with(':')).map(PathBuf::from).collect();
    Ok(paths.into_iter().collect())
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
