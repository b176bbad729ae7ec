use super::{Archive, Modules, add_modules, base};
use crate::{LabError, packages::Packages};

/// What a guest needs of its kernel: the devices of a machine, its file system, and that of first settings.
const MODULES: [&str; 13] = [
    "virtio_mmio",
    "virtio_blk",
    "virtio_net",
    "virtio_rng",
    "virtio_balloon",
    "virtio_input",
    "evdev",
    "button",
    "ext4",
    "crc32c_generic",
    "vfat",
    "nls_cp437",
    "nls_ascii",
];

/// The first program of a guest: loads modules and goes on to the root file system.
const INIT: &str = include_str!("guest-init.sh");

/// What a guest has in memory at first.
pub(super) fn archive(packages: &Packages, modules: &Modules) -> Result<Vec<u8>, LabError> {
    let mut archive: Archive = base(packages, INIT)?;
    archive.folder("newroot");
    add_modules(&mut archive, modules.with_dependencies(&MODULES)?);
    Ok(archive.finish())
}
