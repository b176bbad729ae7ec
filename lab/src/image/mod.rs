//! What hosts and guests boot: kernels, initial file systems, disks.

mod cpio;
mod disk;
mod guest;
mod host;
mod modules;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use cpio::Archive;
use modules::Modules;
use tempfile::TempDir;

use crate::{LabError, Programs, packages::Packages, programs::run};

/// Bytes of the guest's root file system on the disk that both hosts share.
pub(crate) const ROOT_MIB: u64 = 64;

/// Files that hosts and guests boot.
#[derive(Debug)]
pub struct Images {
    /// The kernel of hosts and guests, as Debian ships it: a bzImage.
    pub vmlinuz: PathBuf,
    /// What a host has in memory.
    pub host: PathBuf,
    /// What a guest has in memory until it is on its disk.
    pub guest: PathBuf,
    folder: PathBuf,
    packages: Packages,
    programs: Programs,
}

impl Images {
    /// Builds them in `folder`, with `programs` in them.
    ///
    /// # Errors
    /// A package cannot be had, or a file not be written.
    pub(crate) fn build(folder: &Path, packages: Packages, programs: Programs) -> Result<Self, LabError> {
        let modules = Modules::of(&packages.kernel);
        let (host, guest) = (folder.join("host.cpio"), folder.join("guest.cpio"));
        let vmlinuz = packages.vmlinuz()?;
        write(&guest, &guest::archive(&packages, &modules)?)?;
        let boot = [("vmlinuz", &vmlinuz), ("guest.cpio", &guest)];
        write(&host, &host::archive(&packages, &modules, &programs, &boot)?)?;
        Ok(Self { vmlinuz, host, guest, folder: folder.into(), packages, programs })
    }

    /// The kernel as an ELF file with a PVH entry: what is compressed in the bzImage. Made once for each version.
    ///
    /// # Errors
    /// The kernel is compressed otherwise than Debian 12's.
    pub fn vmlinux(&self) -> Result<PathBuf, LabError> {
        let place = self.packages.kernel.join("vmlinux");
        if place.is_file() {
            return Ok(place);
        }
        let image = read(&self.vmlinuz)?;
        let payload = payload(&image).ok_or_else(|| LabError::PackageContents {
            package: "linux-image-amd64".into(),
            what: "payload in its bzImage".into(),
        })?;
        let work = self.work()?;
        let packed = work.path().join("vmlinux.xz");
        write(&packed, payload)?;
        let unpacked = run(Command::new("xz").args(["--decompress", "--stdout"]).arg(&packed))?;
        write(&place, &unpacked)?;
        Ok(place)
    }

    /// Writes the guest's root file system into the beginning of `disk`, with what it boots in its /boot or without.
    ///
    /// # Errors
    /// A program fails, or the disk cannot be written.
    pub(crate) fn write_root(&self, disk: &Path, has_kernel: bool) -> Result<(), LabError> {
        let boot = has_kernel.then_some((self.vmlinuz.as_path(), self.guest.as_path()));
        disk::write_root(disk, self.work()?.path(), &self.packages, &self.programs, boot)
    }

    /// A folder for what is half done.
    fn work(&self) -> Result<TempDir, LabError> {
        tempfile::tempdir_in(&self.folder).map_err(LabError::file("create a folder in", &self.folder))
    }

    /// The programs of this project that run in hosts.
    #[must_use]
    pub fn programs(&self) -> &Programs {
        &self.programs
    }
}

/// The compressed kernel in a bzImage (Linux, Documentation/arch/x86/boot.rst: `setup_sects`, `payload_offset`,
/// `payload_length`). Its last four bytes are the length of what is in it.
fn payload(image: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?) as usize);
    let protected_mode = (usize::from(*image.get(0x1f1)?) + 1) * 512;
    let start = protected_mode.checked_add(word(0x248)?)?;
    image.get(start..start.checked_add(word(0x24c)?)?.checked_sub(4)?)
}

/// What every system of the lab begins with.
fn base(packages: &Packages, init: &str) -> Result<Archive, LabError> {
    let mut archive = Archive::default();
    ["dev", "proc", "sys", "run", "tmp", "root", "etc"].iter().for_each(|folder| archive.folder(folder));
    archive.device("dev/console", (5, 1));
    archive.file("bin/busybox", 0o755, &read(&packages.busybox)?);
    archive.link("bin/sh", "busybox");
    archive.file("init", 0o755, init.as_bytes());
    Ok(archive)
}

/// Puts modules where an init script finds them in order.
fn add_modules(archive: &mut Archive, modules: Vec<(String, Vec<u8>)>) {
    for (index, (name, contents)) in modules.into_iter().enumerate() {
        archive.file(&format!("modules/{index:02}-{name}.ko"), 0o644, &contents);
    }
}

fn read(path: &Path) -> Result<Vec<u8>, LabError> {
    fs::read(path).map_err(LabError::file("read", path))
}

fn write(path: &Path, contents: &[u8]) -> Result<(), LabError> {
    let unfinished = path.with_extension("unfinished");
    fs::write(&unfinished, contents)
        .and_then(|()| fs::rename(&unfinished, path))
        .map_err(LabError::file("write", path))
}
