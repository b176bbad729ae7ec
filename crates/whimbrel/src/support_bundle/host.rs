//! What there is to say of a host: releases, kernel, processor, memory, KVM.

use std::{fs, path::Path, process::Command};

use crate::rig::find_vmm;

/// All of it, as text.
pub(super) fn facts() -> String {
    let mut text = format!("whimbrel {}\n{}\n", release::VERSION, vmm());
    for (title, path) in [
        ("kernel", "/proc/version"),
        ("system", "/etc/os-release"),
        ("memory", "/proc/meminfo"),
        ("pressure of memory", "/proc/pressure/memory"),
        ("pressure of processors", "/proc/pressure/cpu"),
        ("userfaultfd for users", "/proc/sys/vm/unprivileged_userfaultfd"),
    ] {
        text.push_str(&format!("\n== {title}\n{}\n", read(Path::new(path))));
    }
    text.push_str(&format!("\n== processor, the first of {}\n{}\n", processors(), first_processor()));
    for module in ["kvm", "kvm_intel", "kvm_amd"] {
        for (name, value) in parameters(module) {
            text.push_str(&format!("{module}.{name}={value}\n"));
        }
    }
    let kvm = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
    text.push_str(&format!(
        "/dev/kvm: {}\n",
        kvm.map_or_else(|error| error.to_string(), |_| "usable".to_owned())
    ));
    text
}

/// The release of the VMM that machines are started with.
fn vmm() -> String {
    let Ok(program) = find_vmm(None) else { return "whimbrel-vmm is not beside this program".to_owned() };
    match Command::new(&program).arg("--version").output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Err(error) => format!("{}: {error}", program.display()),
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).map_or_else(|error| error.to_string(), |text| text.trim_end().to_owned())
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn first_processor() -> String {
    let text = read(Path::new("/proc/cpuinfo"));
    text.split("\n\n").next().unwrap_or_default().to_owned()
}

/// What a module of the kernel was loaded with.
fn parameters(module: &str) -> Vec<(String, String)> {
    let folder = Path::new("/sys/module").join(module).join("parameters");
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut all: Vec<_> =
        files.map(|file| (file.file_name().to_string_lossy().into_owned(), read(&file.path()))).collect();
    all.sort();
    all
}
