use std::path::PathBuf;

use super::{Modules, add_modules, base, read};
use crate::{LabError, Programs, packages::Packages};

/// What a host needs of its kernel: KVM, its own devices, and what it makes networks from.
const MODULES: [&str; 12] = [
    "kvm_amd",
    "virtio_pci",
    "virtio_net",
    "virtio_blk",
    "tun",
    "bridge",
    "veth",
    "vhost_net",
    "sch_netem",
    "sch_tbf",
    "tls",
    "loop",
];

/// The first program of a host. The kernel's command line has the lab's address and the number of the host.
const INIT: &str = include_str!("host-init.sh");

/// A host's file system. It has what guests boot in `/boot`.
pub(super) fn archive(
    packages: &Packages,
    modules: &Modules,
    programs: &Programs,
    boot: &[(&str, &PathBuf)],
) -> Result<Vec<u8>, LabError> {
    let mut archive = base(packages, INIT)?;
    add_modules(&mut archive, modules.with_dependencies(&MODULES)?);
    archive.file("bin/whimbrel-vmm", 0o755, &read(&programs.vmm)?);
    archive.file("bin/whimbrel-lab-agent", 0o755, &read(&programs.agent)?);
    for library in &programs.libraries {
        archive.file(library.to_string_lossy().trim_start_matches('/'), 0o755, &read(library)?);
    }
    archive.file("boot/whimbrel-workload.elf", 0o644, guests::WORKLOAD);
    for (name, path) in boot {
        archive.file(&format!("boot/{name}"), 0o644, &read(path)?);
    }
    Ok(archive.finish())
}
