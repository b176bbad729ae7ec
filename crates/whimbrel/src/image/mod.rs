//! `whimbrel image`: what a machine needs out of its own disk.

mod partitions;
mod releases;

use std::{
    error::Error,
    fs::{self, File},
    io::Write,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use clap::{Args, Subcommand};
use ext4_view::{Ext4, Ext4Error, Ext4Read};
use tempfile::NamedTempFile;

use partitions::Partition;
use releases::Release;

/// Look into the image of a disk.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Kernel(Kernel),
}

/// Write the kernel of a disk and its initial RAM disk into files, for `firmware.kernelBoot.host`.
///
/// The disk is a raw image or a block device with an ext4 file system, alone or in a partition. It is read and never written; do it while its
/// machine is off. Of several kernels the newest is taken.
#[derive(Debug, Args)]
struct Kernel {
    /// The disk
    #[arg(value_name = "DISK")]
    disk: PathBuf,
    /// The release of the kernel, as in the name of its file: 6.1.0-32-amd64 [default: the newest]
    #[arg(long, value_name = "RELEASE")]
    release: Option<String>,
    /// Where the kernel is written [default: beside the disk, with .vmlinuz in the place of its ending]
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Where the initial RAM disk is written [default: beside the disk, with .initrd in the place of its ending]
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
}

/// The largest file that is taken for a kernel or an initial RAM disk.
const MAX_FILE: u64 = 512 << 20;

/// Why there is no kernel.
#[derive(Debug, thiserror::Error)]
enum ImageError {
    #[error("Cannot read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("Cannot write {}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("{} is no raw image, it begins as one of {format}: `qemu-img convert -O raw OLD NEW` makes a raw one", path.display())]
    Format { path: PathBuf, format: &'static str },
    #[error("There is no ext4 file system in {}, neither alone nor in a partition; a volume group or an encrypted disk cannot be looked into", path.display())]
    NoFileSystem { path: PathBuf },
    #[error("The file system in {} is damaged, or has something that cannot be read here: {source}", path.display())]
    FileSystem { path: PathBuf, source: Ext4Error },
    #[error("There is no kernel in {}: neither in /boot nor in / is a file vmlinuz-RELEASE", path.display())]
    NoKernel { path: PathBuf },
    #[error("There is no kernel {wanted} in {}, which has {there}", path.display())]
    NoRelease { path: PathBuf, wanted: String, there: String },
    #[error("{file} in {} has {bytes} bytes: at most {MAX_FILE} are taken", path.display())]
    TooLarge { path: PathBuf, file: String, bytes: u64 },
    #[error("{file} in {} is no Linux kernel for x86-64: neither a bzImage nor an ELF file", path.display())]
    NotAKernel { path: PathBuf, file: String },
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let Command::Kernel(wanted) = &arguments.command;
    let disk = std::path::absolute(&wanted.disk)?;
    let found = find(&disk, wanted.release.as_deref())?;
    let kernel = named(wanted.kernel.as_deref(), &disk, "vmlinuz")?;
    let initrd = named(wanted.initrd.as_deref(), &disk, "initrd")?;
    found.write(&disk, &found.release.kernel, &kernel, is_kernel)?;
    if let Some(file) = &found.release.initrd {
        found.write(&disk, file, &initrd, |_| true)?;
    }
    found.tell(&kernel, &initrd);
    Ok(ExitCode::SUCCESS)
}

/// Where a file goes.
fn named(said: Option<&Path>, disk: &Path, ending: &str) -> std::io::Result<PathBuf> {
    said.map_or_else(|| Ok(disk.with_extension(ending)), std::path::absolute)
}

/// A kernel in a file system.
struct Found {
    files: Ext4,
    partition: Partition,
    release: Release,
}

/// The kernel of that release, or the newest, in the first file system of the disk that has one.
fn find(path: &Path, wanted: Option<&str>) -> Result<Found, ImageError> {
    let unreadable = |source| ImageError::Read { path: path.to_owned(), source };
    let disk = Arc::new(File::open(path).map_err(unreadable)?);
    if let Some(format) = partitions::other_format(&disk).map_err(unreadable)? {
        return Err(ImageError::Format { path: path.to_owned(), format });
    }
    let mut there = Vec::new();
    let mut has_files = false;
    for partition in partitions::all(&disk).map_err(unreadable)? {
        let files = match Ext4::load(Box::new(Part { disk: disk.clone(), partition })) {
            Ok(files) => files,
            Err(_) if !partitions::is_ext(&disk, partition) => continue,
            Err(source) => return Err(ImageError::FileSystem { path: path.to_owned(), source }),
        };
        has_files = true;
        let damaged = |source| ImageError::FileSystem { path: path.to_owned(), source };
        let mut releases = releases::all(&files).map_err(damaged)?;
        if let Some(index) = releases.iter().position(|one| wanted.is_none_or(|wanted| one.name == wanted)) {
            return Ok(Found { files, partition, release: releases.swap_remove(index) });
        }
        there.extend(releases.into_iter().map(|release| release.name));
    }
    let path = path.to_owned();
    match wanted {
        _ if !has_files => Err(ImageError::NoFileSystem { path }),
        Some(wanted) if !there.is_empty() => {
            Err(ImageError::NoRelease { path, wanted: wanted.to_owned(), there: there.join(", ") })
        }
        _ => Err(ImageError::NoKernel { path }),
    }
}

impl Found {
    /// Copies a file out of the image, whole or not at all, if its beginning is what it should be.
    fn write(
        &self,
        disk: &Path,
        file: &str,
        to: &Path,
        is_right: fn(&[u8]) -> bool,
    ) -> Result<(), ImageError> {
        let damaged = |source| ImageError::FileSystem { path: disk.to_owned(), source };
        let unwritable = |source| ImageError::Write { path: to.to_owned(), source };
        let bytes = self.files.metadata(file).map_err(damaged)?.len();
        if bytes > MAX_FILE {
            return Err(ImageError::TooLarge { path: disk.to_owned(), file: file.to_owned(), bytes });
        }
        let mut from = self.files.open(file).map_err(damaged)?;
        let folder = to.parent().unwrap_or(Path::new("/"));
        let mut unfinished = NamedTempFile::new_in(folder).map_err(unwritable)?;
        let mut piece = vec![0; 1 << 20];
        let mut is_first = true;
        loop {
            let count = from.read_bytes(&mut piece).map_err(damaged)?;
            if is_first && !is_right(&piece[..count]) {
                return Err(ImageError::NotAKernel { path: disk.to_owned(), file: file.to_owned() });
            }
            if count == 0 {
                break;
            }
            is_first = false;
            unfinished.write_all(&piece[..count]).map_err(unwritable)?;
        }
        // Agents may run as somebody else.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        fs::set_permissions(unfinished.path(), mode).map_err(unwritable)?;
        unfinished.persist(to).map(drop).map_err(|error| unwritable(error.error))
    }

    /// What goes into the description of a machine.
    fn tell(&self, kernel: &Path, initrd: &Path) {
        output::say!("firmware:");
        output::say!("  kernelBoot:");
        output::say!("    host:");
        output::say!("      kernelPath: {}", kernel.display());
        if self.release.initrd.is_some() {
            output::say!("      initrdPath: {}", initrd.display());
        }
        // A file system of its own for /boot has no root to tell of.
        if self.files.exists("/etc").unwrap_or(false) {
            output::say!("    kernelArgs: root=UUID={} ro console=ttyS0", self.files.uuid());
        }
        let place = self
            .partition
            .number
            .map_or_else(|| "the whole disk".to_owned(), |number| format!("partition {number}"));
        output::complain!("Kernel {} of {place}.", self.release.name);
    }
}

/// A bzImage (Linux, Documentation/arch/x86/boot.rst), or an ELF file.
fn is_kernel(beginning: &[u8]) -> bool {
    beginning.get(0x202..0x206) == Some(b"HdrS") || beginning.starts_with(b"\x7fELF\x02")
}

/// A part of a disk. It ends where the disk does: what is behind is an error, not a hang.
struct Part {
    disk: Arc<File>,
    partition: Partition,
}

impl Ext4Read for Part {
    fn read(&mut self, start: u64, bytes: &mut [u8]) -> Result<(), Box<dyn Error + Send + Sync + 'static>> {
        let end = start.checked_add(bytes.len() as u64).filter(|end| *end <= self.partition.bytes);
        if end.is_none() {
            return Err("it goes on behind its partition".into());
        }
        Ok(self.disk.read_exact_at(bytes, self.partition.start + start)?)
    }
}

/// All of a small file, at most so many bytes.
fn read_at(disk: &File, start: u64, bytes: usize) -> std::io::Result<Vec<u8>> {
    let mut read = vec![0; bytes];
    let mut done = 0;
    while done < bytes {
        match disk.read_at(&mut read[done..], start + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    read.truncate(done);
    Ok(read)
}

#[cfg(test)]
mod tests;
