//! What a machine cannot be started with: each is told in a sentence, and the exit status is 1.

use std::{
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
};

use crate::harness::{Lab, Spec, run_to_end};

/// Runs the program, which must refuse to, and returns what it said.
fn refused(flags: &[&str]) -> String {
    let output = run_to_end(flags);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{flags:?} ended with {}: {said}", output.status);
    assert!(!said.contains("panicked"), "{said}");
    let last = said.lines().rfind(|line| line.contains("whimbrel-vmm: "));
    let last = last.unwrap_or_else(|| panic!("it does not say who says it: {said}"));
    let mut reasons: Vec<&str> = last.split(": ").collect();
    reasons.sort_unstable();
    assert!(reasons.windows(2).all(|pair| pair[0] != pair[1]), "a reason is told twice: {said}");
    said
}

/// Asserts that every part is in what was said.
fn says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "'{part}' is not in: {said}");
    }
}

fn with_kernel(kernel: &Path) -> String {
    refused(&["--memory", "64M", "--serial", "none", "--kernel", &kernel.display().to_string()])
}

/// A lab, and the flags of a machine that would start.
fn good(lab: &Lab) -> Vec<String> {
    let mut flags = lab.flags(&Spec::calm());
    flags.extend(["--serial".into(), "none".into()]);
    flags
}

/// As [`refused`], for a machine that would start without these flags.
fn refused_with(lab: &Lab, more: &[&str]) -> String {
    let flags = good(lab);
    let flags: Vec<&str> = flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
    refused(&flags)
}

#[test]
fn a_directory_for_reports_that_is_not_there_or_is_none_is_named() {
    let Some(lab) = Lab::new() else { return };
    let advice = "name another directory with --report-dir";
    let absent = lab.path("absent").display().to_string();
    says(&refused_with(&lab, &["--report-dir", &absent]), &[&absent, advice, "No such file"]);
    let file = lab.file("file", b"").display().to_string();
    says(&refused_with(&lab, &["--report-dir", &file]), &[&file, advice, "Not a directory"]);
    let read_only = refused_with(&lab, &["--report-dir", "/proc/sys"]);
    says(&read_only, &["/proc/sys", advice]);
}

#[test]
fn a_kernel_that_is_not_there_is_named() {
    says(&with_kernel(Path::new("/nonexistent/vmlinux")), &["/nonexistent/vmlinux", "No such file"]);
}

#[test]
fn a_kernel_that_cannot_be_read_is_named() {
    says(&with_kernel(Path::new("/tmp")), &["/tmp"]);
}

#[test]
fn a_program_is_not_a_kernel() {
    let Some(_lab) = Lab::new() else { return };
    says(&with_kernel(Path::new("/bin/true")), &["/bin/true", "PVH"]);
}

#[test]
fn a_text_is_not_a_kernel() {
    let Some(lab) = Lab::new() else { return };
    let text = lab.file("kernel.txt", &b"this is no kernel\n".repeat(100));
    says(&with_kernel(&text), &["kernel.txt", "PVH", "bzImage"]);
}

#[test]
fn a_kernel_that_was_cut_off_is_refused() {
    let Some(lab) = Lab::new() else { return };
    let whole = std::fs::read(lab.kernel()).unwrap();
    for bytes in [0, 1, 10, 63, 64, 200, whole.len() / 2] {
        let cut = lab.file("cut.elf", &whole[..bytes]);
        says(&with_kernel(&cut), &["cut.elf"]);
    }
}

#[test]
fn no_kernel_at_all_is_told() {
    says(&refused(&["--memory", "64M"]), &["--kernel", "--incoming"]);
}

#[test]
fn an_initrd_that_is_not_there_is_named() {
    let Some(lab) = Lab::new() else { return };
    says(&refused_with(&lab, &["--initrd", "/nonexistent/initrd"]), &["/nonexistent/initrd"]);
}

#[test]
fn more_huge_pages_than_there_are_are_refused_with_what_to_do() {
    let Some(lab) = Lab::new() else { return };
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap();
    let kib: u64 = total.trim().strip_suffix("kB").unwrap().trim().parse().unwrap();
    // All of the host's memory is never in the pool.
    let memory = format!("{}M", kib / 2048 * 2);
    let flags = ["--memory", &memory, "--memory-backing", "hugetlb", "--serial", "none", "--kernel"];
    let kernel = lab.kernel().display().to_string();
    says(&refused(&[&flags[..], &[&kernel]].concat()), &["nr_hugepages"]);
}

#[test]
fn more_memory_than_the_host_has_is_refused_with_what_to_do() {
    let Some(lab) = Lab::new() else { return };
    for backing in ["anonymous", "memfd"] {
        let flags = ["--memory", "8T", "--memory-backing", backing, "--serial", "none", "--kernel"];
        let kernel = lab.kernel().display().to_string();
        says(&refused(&[&flags[..], &[&kernel]].concat()), &["8388608 MiB", "give it less"]);
    }
}

#[test]
fn memory_that_cannot_be_is_refused() {
    for size in ["0", "1M", "3M", "9T", "-1", "lots", "16E"] {
        says(&refused(&["--memory", size, "--kernel", "x"]), &[size.trim_start_matches('-')]);
    }
}

#[test]
fn an_unknown_flag_is_named() {
    says(&refused(&["--zork", "1"]), &["--zork"]);
    says(&refused(&["--memroy", "64M"]), &["--memroy", "--memory"]);
}

#[test]
fn an_unknown_field_of_the_file_is_named() {
    let Some(lab) = Lab::new() else { return };
    let file = lab.file("vm.yaml", b"memory: 64M\nkernel: x\nmemroy: 1G\n");
    says(&refused(&["--config", &file.display().to_string()]), &["vm.yaml", "memroy", "line 3"]);
    let file = lab.file("vm.yaml", b"kernel: x\ndisks:\n  - path: y\n    redonly: true\n");
    says(&refused(&["--config", &file.display().to_string()]), &["vm.yaml", "redonly"]);
}

#[test]
fn a_file_that_is_not_yaml_is_refused() {
    let Some(lab) = Lab::new() else { return };
    let bad: [&[u8]; 5] =
        [b"memory: [", b"\xff\xfe\x00", b"- a\n- b\n", b"memory: 64M\nmemory: 32M\n", b"{{{{{{"];
    for contents in bad {
        let file = lab.file("vm.yaml", contents);
        says(&refused(&["--config", &file.display().to_string()]), &["vm.yaml"]);
    }
    says(&refused(&["--config", "/nonexistent/vm.yaml"]), &["/nonexistent/vm.yaml"]);
}

#[test]
fn a_disk_that_cannot_be_opened_is_named() {
    let Some(lab) = Lab::new() else { return };
    says(&refused_with(&lab, &["--disk", "path=/nonexistent/disk.img"]), &["/nonexistent/disk.img"]);
    says(&refused_with(&lab, &["--disk", "path=/tmp"]), &["/tmp"]);
    let image = lab.disk("disk.img", 1).display().to_string();
    let both = ["--disk", &format!("path={image},serial=a"), "--disk", &format!("path={image},serial=b")];
    says(&refused_with(&lab, &both), &["disk0", "disk1", &image]);
}

#[test]
fn one_image_under_two_paths_is_no_two_disks() {
    let Some(lab) = Lab::new() else { return };
    let image = lab.disk("first.img", 1);
    let (hard, soft) = (lab.path("second.img"), lab.path("third.img"));
    std::fs::hard_link(&image, &hard).unwrap();
    std::os::unix::fs::symlink(&image, &soft).unwrap();
    for other in [hard, soft] {
        for options in ["", ",lock=off"] {
            let disk = |path: &Path| format!("path={}{options}", path.display());
            let output = refused_with(&lab, &["--disk", &disk(&image), "--disk", &disk(&other)]);
            says(&output, &["first.img", &other.display().to_string(), "one and the same"]);
        }
    }
}

#[test]
fn a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for() {
    let Some(lab) = Lab::new() else { return };
    let pipe = lab.path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let path = pipe.display().to_string();
    says(&with_kernel(&pipe), &[&path, "not a regular file"]);
    says(&refused_with(&lab, &["--initrd", &path]), &[&path, "not a regular file"]);
    let disk = refused_with(&lab, &["--disk", &format!("path={path},readonly=on")]);
    says(&disk, &[&path, "neither a file nor a block device"]);
    let flags = lab.flags(&Spec::calm());
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let serial = refused(&[&flags[..], &["--serial", &format!("file:{path}")]].concat());
    says(&serial, &[&path, "start its reader first"]);
}

#[test]
fn an_interface_that_is_no_tap_is_named() {
    let Some(lab) = Lab::new() else { return };
    says(&refused_with(&lab, &["--net", "tap=lo"]), &["'lo'", "ip tuntap add"]);
    says(&refused_with(&lab, &["--net", "fd=250"]), &["250"]);
    says(&refused_with(&lab, &["--net", "tap=a-name-that-is-too-long"]), &["a-name-that-is-too-long"]);
}

#[test]
fn a_place_for_the_serial_port_that_cannot_be_is_named() {
    let Some(lab) = Lab::new() else { return };
    let flags = lab.flags(&Spec::calm());
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    for place in ["file:/nonexistent/serial", "unix:/nonexistent/serial"] {
        says(&refused(&[&flags[..], &["--serial", place]].concat()), &["/nonexistent/serial"]);
    }
}

#[test]
fn an_address_that_others_reach_needs_insecure() {
    for address in ["tcp:0.0.0.0:0", "tcp:192.0.2.1:4444", "tcp:[::]:0", "tcp:host.example:1"] {
        says(&refused(&["--incoming", address]), &[address, "--insecure", "not encrypted"]);
    }
}

#[test]
fn an_address_that_is_none_is_refused() {
    for address in ["tcp:127.0.0.1", "udp:127.0.0.1:1", "tcp:::1:1", "4444", "unix:"] {
        let said = refused(&["--incoming", address]);
        assert!(said.contains("tcp:HOST:PORT") || said.contains("Path"), "{said}");
    }
}

#[test]
fn an_address_in_use_is_refused_and_nothing_is_left() {
    let Some(lab) = Lab::new() else { return };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{}", taken.local_addr().unwrap());
    let monitor = lab.path("qmp");
    let monitor_flag = format!("unix:{}", monitor.display());
    let said =
        refused(&["--memory", "64M", "--serial", "none", "--incoming", &address, "--monitor", &monitor_flag]);
    says(&said, &[&taken.local_addr().unwrap().port().to_string(), "in use"]);
    assert!(!monitor.exists(), "it left its monitor's socket behind");
}

#[test]
fn a_monitor_socket_in_use_is_refused() {
    let Some(lab) = Lab::new() else { return };
    let vmm = lab.boot(&Spec::calm());
    let flag = |path: PathBuf| format!("unix:{}", path.display());
    let path = vmm.monitor_path();
    let said = refused_with(&lab, &["--monitor", &flag(path.clone())]);
    says(&said, &[&path.display().to_string(), "in use"]);
    assert!(vmm.another_client().query_status().unwrap().running);

    let file = lab.file("notes.txt", b"mine");
    says(&refused_with(&lab, &["--monitor", &flag(file.clone())]), &["notes.txt"]);
    assert_eq!(std::fs::read(file).unwrap(), b"mine");
}

#[test]
fn a_monitor_socket_that_a_dead_process_left_is_replaced() {
    let Some(lab) = Lab::new() else { return };
    // Closing a listener leaves its file.
    drop(UnixListener::bind(lab.path("a.qmp")).unwrap());
    let vmm = lab.boot(&Spec::calm());
    assert_eq!(vmm.monitor_path(), lab.path("a.qmp"));
    vmm.kill();
    assert!(lab.path("a.qmp").exists());
}

#[test]
fn help_is_complete_and_a_description_comes_back() {
    let help = run_to_end(&["--help"]);
    let text = String::from_utf8_lossy(&help.stdout).into_owned();
    assert!(help.status.success());
    let flags = [
        "--name",
        "--uuid",
        "--memory",
        "--memory-backing",
        "--cpus",
        "--kernel",
        "--initrd",
        "--cmdline",
        "--disk",
        "--net",
        "--rng",
        "--balloon",
        "--keyboard",
        "--serial",
        "--monitor",
        "--incoming",
        "--may-differ",
        "--insecure",
        "--paused",
        "--seccomp",
        "--log",
        "--config",
        "--print-config",
    ];
    says(&text, &flags);
    assert_eq!(run_to_end(&["--version"]).status.code(), Some(0));

    let printed = run_to_end(&["--memory", "64M", "--kernel", "x", "--print-config"]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("vm.yaml");
    std::fs::write(&file, &printed.stdout).unwrap();
    let again = run_to_end(&["--config", &file.display().to_string(), "--print-config"]);
    assert_eq!(String::from_utf8_lossy(&again.stdout), String::from_utf8_lossy(&printed.stdout));
    assert!(again.status.success());
}
