//! Debian packages: downloaded once, kept for as long as the archive has the same version.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    LabError,
    programs::{last_lines, run},
};

/// The package that depends on the current kernel.
const KERNEL: &str = "linux-image-amd64";
/// What hosts and guests have for programs.
const BUSYBOX: &str = "busybox-static";

/// Options of apt-get. An archive that does not answer is told of in seconds.
const DOWNLOAD: [&str; 9] = [
    "--quiet=2",
    // Who is root has a folder that nobody else may read, and would be warned of it.
    "--option",
    "APT::Sandbox::User=root",
    "--option",
    "Acquire::Retries=0",
    "--option",
    "Acquire::http::Timeout=8",
    "--option",
    "Acquire::https::Timeout=8",
];

/// Packages, unpacked.
#[derive(Clone, Debug)]
pub(crate) struct Packages {
    /// The kernel's package, unpacked.
    pub(crate) kernel: PathBuf,
    /// The program.
    pub(crate) busybox: PathBuf,
}

impl Packages {
    /// Downloads what is not there yet.
    pub(crate) fn get() -> Result<Self, LabError> {
        let cache = cache_directory();
        let kernel = depends(KERNEL)?;
        let busybox = unpacked(&cache, BUSYBOX)?.join("bin/busybox");
        Ok(Self { kernel: unpacked(&cache, &kernel)?, busybox })
    }

    /// The kernel as it is booted.
    pub(crate) fn vmlinuz(&self) -> Result<PathBuf, LabError> {
        let found = fs::read_dir(self.kernel.join("boot")).ok().and_then(|entries| {
            entries.filter_map(|entry| Some(entry.ok()?.path())).find(|path| {
                path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"))
            })
        });
        found.ok_or_else(|| LabError::PackageContents { package: KERNEL.into(), what: "boot/vmlinuz".into() })
    }
}

/// Where packages are kept.
pub(crate) fn cache_directory() -> PathBuf {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    cache.or(home).unwrap_or_else(env::temp_dir).join("whimbrel/lab")
}

/// The one package that `package`, which is empty itself, stands for.
fn depends(package: &str) -> Result<String, LabError> {
    let text = show(package)?;
    let depends = field(&text, "Depends")
        .and_then(|list| list.split([',', ' ']).find(|name| name.starts_with("linux-image-")));
    depends.map(str::to_owned).ok_or_else(|| missing(package, "it depends on no kernel"))
}

/// Where the package's files are, in the version that apt would install.
fn unpacked(cache: &Path, package: &str) -> Result<PathBuf, LabError> {
    let text = show(package)?;
    let version = field(&text, "Version").ok_or_else(|| missing(package, "it has no version"))?;
    let place = cache.join(format!("{package}_{}", version.replace([':', '/'], "-")));
    if place.is_dir() {
        return Ok(place);
    }
    fs::create_dir_all(cache).map_err(LabError::file("create", cache))?;
    let work = tempfile::tempdir_in(cache).map_err(LabError::file("create a folder in", cache))?;
    let downloaded =
        run(Command::new("apt-get").args(DOWNLOAD).args(["download", package]).current_dir(work.path()));
    if let Err(LabError::Program { said, .. }) = downloaded {
        return Err(missing(package, &said));
    }
    let archive = fs::read_dir(work.path()).ok().and_then(|mut entries| entries.next()?.ok());
    let archive = archive.ok_or_else(|| missing(package, "it downloaded nothing"))?;
    let contents = work.path().join("contents");
    run(Command::new("dpkg-deb").arg("--extract").arg(archive.path()).arg(&contents))?;
    match fs::rename(&contents, &place) {
        // Another lab was faster.
        Err(_) if place.is_dir() => Ok(place),
        result => result.map(|()| place.clone()).map_err(LabError::file("create", place)),
    }
}

fn show(package: &str) -> Result<String, LabError> {
    let shown = run(Command::new("apt-cache").args(["show", "--no-all-versions", package]));
    match shown {
        Ok(text) if !text.is_empty() => Ok(String::from_utf8_lossy(&text).into_owned()),
        Ok(_) => Err(missing(package, "no such package")),
        Err(LabError::Program { said, .. }) => Err(missing(package, &said)),
        Err(error) => Err(error),
    }
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

fn missing(package: &str, said: &str) -> LabError {
    LabError::MissingPackage { package: package.into(), said: last_lines(said, 3) }
}
