//! A machine description as users write it: flags, a file, both, and mistakes in each.

use std::{fs, path::PathBuf};

use config::{
    Backing, Config, ConfigError, DirtyLogKind, Identity, Invocation, LogLevel, NetBackend, RawConfig,
    Seccomp, from_args,
};
use tempfile::TempDir;

fn run(flags: &[&str]) -> Result<Config, ConfigError> {
    match from_args([&["whimbrel-vmm"], flags].concat())? {
        Invocation::Run(config) => Ok(*config),
        other => panic!("asked to run, got {other:?}"),
    }
}

fn print(flags: &[&str]) -> String {
    match from_args([&["whimbrel-vmm"], flags].concat()).expect("these flags are possible") {
        Invocation::Print(text) => text,
        other => panic!("asked for text, got {other:?}"),
    }
}

fn refused(flags: &[&str]) -> ConfigError {
    run(flags).expect_err("this machine is not possible")
}

fn yaml(text: &str) -> Result<Config, ConfigError> {
    RawConfig::from_yaml(text, "vm.yaml").and_then(Config::new)
}

fn file(directory: &TempDir, text: &[u8]) -> PathBuf {
    let path = directory.path().join("vm.yaml");
    fs::write(&path, text).expect("the directory can be written");
    path
}

const FULL: &str = "
name: db-1
uuid: 6c1a4b5e-7f0e-4a3c-9b57-3d2f9a1c0e11
memory: 4G
memory-backing: hugetlb
cpus: 4
cpu: x86-64-v3,+aes
dirty-log: ring=4096
kernel: vmlinuz
initrd: initrd.img
cmdline: console=ttyS0
disks:
  - path: root.img
    serial: root
  - {path: data.img, readonly: true, direct: true, werror: stop, rerror: stop, lock: on, format: raw}
nets:
  - tap: tap0
    mac: 02:00:00:00:00:01
  - fd: 7
rng: off
balloon: false
keyboard: on
serial: file:console.log
monitor: unix:/run/m
incoming: tcp:[::1]:4444
may-differ: [name, image]
userfaultfd: fd=9
tls: /etc/whimbrel/tls
tls-hostname: host-b
tls-authz: dns:host-a;uri:spiffe://x/*
insecure: false
paused: true
seccomp: on
report-dir: /var/lib/reports
log: debug
log-format: json
";

#[test]
fn a_kernel_is_all_that_a_machine_needs() {
    let config = run(&["--kernel", "k"]).unwrap();
    assert_eq!(config.name().as_str(), "vm");
    assert_eq!((config.memory().mib(), config.cpus().get()), (512, 1));
    assert_eq!((config.memory_backing(), config.dirty_log()), (Backing::Anonymous, DirtyLogKind::Auto));
    assert!(config.rng() && config.balloon() && !config.keyboard());
    assert!(config.monitor().is_none() && config.incoming().is_none() && !config.paused());
    assert_eq!((config.seccomp(), config.log()), (Seccomp::On, LogLevel::Info));
}

#[test]
fn flags_and_file_describe_the_same_machine() {
    let flags = run(&[
        "--name=db-1",
        "--uuid=6c1a4b5e-7f0e-4a3c-9b57-3d2f9a1c0e11",
        "-m4G",
        "--cpu=x86-64-v3,+aes",
        "--dirty-log=ring=4096",
        "--memory-backing=hugetlb",
        "--cpus=4",
        "--kernel=vmlinuz",
        "--initrd=initrd.img",
        "--cmdline=console=ttyS0",
        "--disk=root.img,serial=root",
        "--disk=path=data.img,readonly=on,direct=on,werror=stop,rerror=stop,format=raw",
        "--net=tap=tap0,mac=02:00:00:00:00:01",
        "--net=fd=7",
        "--rng=off",
        "--balloon=off",
        "--keyboard=on",
        "--serial=file:console.log",
        "--qmp=unix:/run/m,server=on,wait=off",
        "--incoming=tcp:[::1]:4444",
        "--may-differ=name,image",
        "--userfaultfd=fd=9",
        "--tls=/etc/whimbrel/tls",
        "--tls-hostname=host-b",
        "--tls-authz=dns:host-a;uri:spiffe://x/*",
        "-S",
        "--seccomp=on",
        "--report-dir=/var/lib/reports",
        "--log=debug",
        "--log-format=json",
    ]);
    assert_eq!(flags.unwrap(), yaml(FULL).unwrap());
}

#[test]
fn a_flag_overrides_the_file_and_devices_add_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(&directory, FULL.as_bytes());
    let config =
        run(&["--config", path.to_str().unwrap(), "--cpus=2", "--paused=off", "--disk=third.img"]).unwrap();
    assert_eq!((config.cpus().get(), config.memory().mib(), config.paused()), (2, 4096, false));
    let paths: Vec<_> = config.disks().iter().map(|disk| disk.path().to_string()).collect();
    assert_eq!(paths, ["root.img", "data.img", "third.img"]);
    assert_eq!(config.disks()[2].serial().as_str(), "disk2");
}

#[test]
fn what_print_config_prints_describes_the_same_machine() {
    let text = print(&["--kernel=k", "--disk=a", "--net=tap=t", "--cmdline=- x: 'y' # z", "--print-config"]);
    let flags = run(&["--kernel=k", "--disk=a", "--net=tap=t", "--cmdline=- x: 'y' # z"]).unwrap();
    assert_eq!(yaml(&text).unwrap(), flags, "{text}");
    assert_eq!(yaml(&yaml(FULL).unwrap().to_yaml()).unwrap(), yaml(FULL).unwrap());
}

#[test]
fn help_names_every_field_with_its_default_and_the_qemu_alias() {
    let help = print(&["--help"]);
    // The fields as serde knows them: a new field cannot be left out here.
    for line in yaml(FULL).unwrap().to_yaml().lines().filter(|line| line.starts_with(char::is_alphabetic)) {
        let key = line.split(':').next().unwrap();
        let flag = match key {
            "disks" => "disk",
            "nets" => "net",
            other => other,
        };
        assert!(help.contains(&format!("--{flag}")), "--{flag} is not in:\n{help}");
    }
    assert!(help.contains("--qmp") && help.contains("[default: 512M]"), "{help}");
    assert!(print(&["--version"]).starts_with("whimbrel-vmm "));
}

#[test]
fn cards_without_an_address_get_one_that_stays() {
    let macs = |name: &str| {
        let config = run(&["--kernel=k", "--name", name, "--net=tap=t0", "--net=tap=t1"]).unwrap();
        (config.nets()[0].mac(), config.nets()[1].mac())
    };
    assert_eq!(macs("a"), macs("a"));
    assert_ne!(macs("a").0, macs("a").1);
    assert_ne!(macs("a").0, macs("b").0);
    // A release that derives other addresses would change the cards of VMs that run.
    assert_eq!(macs("a").0.to_string(), "02:39:07:ab:16:64");
}

#[test]
fn a_machine_that_boots_needs_a_kernel_and_one_that_is_migrated_in_does_not() {
    assert!(matches!(refused(&[]), ConfigError::MissingKernel));
    assert!(run(&["--incoming=defer"]).unwrap().boot().is_none());
    assert!(matches!(
        refused(&["--incoming=defer", "--initrd=i"]),
        ConfigError::WithoutKernel { field: "initrd" }
    ));
    assert!(matches!(refused(&["--incoming=defer", "--cmdline=x"]), ConfigError::WithoutKernel { .. }));
}

#[test]
fn only_a_machine_that_is_migrated_in_may_differ() {
    let permitted = |config: Config| config.may_differ().to_vec();
    assert_eq!(permitted(run(&["--incoming=defer"]).unwrap()), []);
    let all = [Identity::Name, Identity::Uuid, Identity::Mac, Identity::Image];
    let run_with = |list: &str| run(&["--incoming=defer", "--may-differ", list]);
    assert_eq!(permitted(run_with("name,uuid,mac,image").unwrap()), all);
    assert!(matches!(run_with("memory"), Err(ConfigError::Flags(_))));
    let at_boot = refused(&["--kernel=k", "--may-differ=name"]);
    assert!(matches!(at_boot, ConfigError::WithoutIncoming { .. }), "{at_boot}");
}

#[test]
fn devices_that_cannot_be_told_apart_are_refused() {
    let with = |devices: &[&str]| refused(&[&["--kernel=k"], devices].concat());
    assert!(matches!(with(&["--disk=a", "--disk=./a"]), ConfigError::SameDisk { first: 0, second: 1, .. }));
    assert!(matches!(with(&["--disk=a/b", "--disk=a//b"]), ConfigError::SameDisk { .. }));
    assert!(matches!(with(&["--disk=a,serial=disk1", "--disk=b"]), ConfigError::SameDiskSerial { .. }));
    assert!(matches!(with(&["--net=tap=t", "--net=tap=t"]), ConfigError::SameNetBackend { .. }));
    assert!(matches!(with(&["--net=fd=3", "--net=fd=3"]), ConfigError::SameNetBackend { .. }));
    let mac = "mac=02:00:00:00:00:01";
    let same_mac = with(&[&format!("--net=tap=a,{mac}"), &format!("--net=tap=b,{mac}")]);
    assert!(matches!(same_mac, ConfigError::SameMac { .. }));
    assert!(matches!(with(&["--monitor=unix:s", "--serial=unix:s"]), ConfigError::SameSocket { .. }));
}

#[test]
fn a_card_has_exactly_one_backend() {
    assert!(matches!(refused(&["--kernel=k", "--net=tap=t,fd=3"]), ConfigError::NetBackend { index: 0 }));
    assert!(matches!(
        yaml("kernel: k\nnets: [{mac: 02:00:00:00:00:01}]"),
        Err(ConfigError::NetBackend { .. })
    ));
}

#[test]
fn eight_disks_and_four_cards_are_the_most() {
    let many = |flag: &str, count| {
        let devices: Vec<_> = (0..count).map(|index| format!("--{flag}{index}")).collect();
        run(&[&["--kernel=k"], &devices.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat())
    };
    assert_eq!(many("disk=d", 8).unwrap().disks().len(), 8);
    assert!(matches!(many("disk=d", 9), Err(ConfigError::TooMany { what: "disks", count: 9, limit: 8 })));
    let nets = many("net=tap=t", 4).unwrap();
    assert!(matches!(&nets.nets()[3].backend(), NetBackend::Tap(name) if name.as_str() == "t3"));
    assert!(matches!(many("net=tap=t", 5), Err(ConfigError::TooMany { what: "nets", .. })));
}

#[test]
fn migration_in_the_open_must_be_asked_for() {
    assert!(matches!(refused(&["--incoming=tcp:0.0.0.0:1"]), ConfigError::Insecure { .. }));
    assert!(run(&["--incoming=tcp:0.0.0.0:1", "--insecure"]).unwrap().insecure());
    assert!(run(&["--incoming=tcp:localhost:1"]).is_ok());
}

#[test]
fn encrypted_migration_may_come_from_anywhere_if_it_is_said_from_whom() {
    let encrypted = ["--incoming=tcp:0.0.0.0:1", "--tls=tls"];
    assert!(matches!(refused(&encrypted), ConfigError::NobodyMayCome));
    let config = run(&[&encrypted[..], &["--tls-authz=host-a"]].concat()).unwrap();
    assert_eq!((config.tls_authz(), config.insecure()), (Some("host-a"), false));
    // What comes later can say so later.
    assert!(run(&["--incoming=defer", "--tls=tls"]).is_ok());
}

#[test]
fn a_wrong_flag_is_named_with_what_it_takes() {
    for (flags, parts) in [
        (vec!["--kernel=k", "--memory=1X"], vec!["--memory", "1X", "512M"]),
        (vec!["--kernel=k", "--cpus=65"], vec!["--cpus", "65", "1 to 64"]),
        (vec!["--kernel=k", "--disk=a,cache=none"], vec!["--disk", "cache", "readonly"]),
        (vec!["--kernel=k", "--colour=red"], vec!["--colour"]),
        (vec!["--kernel=k", "--seccomp=maybe"], vec!["--seccomp", "maybe", "log"]),
        (vec!["--kernel=k", "--kernel=l"], vec!["--kernel"]),
    ] {
        let message = refused(&flags).to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        assert!(!message.starts_with("error"), "{message}");
    }
}

#[test]
fn a_wrong_line_in_the_file_is_shown_with_its_number() {
    for (text, parts) in [
        ("kernel: k\nmemory: 1X\n", vec!["line 2", "1X", "512M"]),
        ("kernel: k\ncolour: red\n", vec!["line 2", "colour"]),
        ("kernel: k\nkernel: l\n", vec!["line 2", "kernel"]),
        ("kernel: k\ndisks:\n  - path: a\n    cache: none\n", vec!["line 4", "cache"]),
        ("kernel: k\ndisks:\n  - readonly: true\n", vec!["path"]),
        ("kernel: k\nnets:\n  - tap: t\n    mac: ff:ff:ff:ff:ff:ff\n", vec!["line 4", "multicast"]),
        ("kernel: k\ncpus: 0\n", vec!["line 2", "1 to 64"]),
        ("kernel: k\ncpus: [1]\n", vec!["line 2"]),
        ("kernel: k\nname: \"a\\0b\"\n", vec!["line 2", "Name"]),
        ("kernel: \"\"\n", vec!["line 1", "empty"]),
        ("kernel: 'unclosed\n", vec!["line"]),
        ("- kernel\n", vec!["line 1"]),
        ("kernel: k\n---\nkernel: l\n", vec!["vm.yaml"]),
    ] {
        let message = yaml(text).expect_err(text).to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{text}\n{message}");
    }
}

#[test]
fn a_file_that_cannot_be_a_description_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let config = |path: &std::path::Path| refused(&["--config", path.to_str().unwrap()]);
    assert!(matches!(config(&directory.path().join("missing")), ConfigError::Read { .. }));
    assert!(matches!(config(directory.path()), ConfigError::Read { .. }));
    assert!(matches!(config(&file(&directory, b"name: \xff")), ConfigError::Yaml { .. }));
    assert!(matches!(config(&file(&directory, &vec![b'#'; 2 << 20])), ConfigError::FileTooLong { .. }));
    assert!(matches!(config(&file(&directory, b"")), ConfigError::MissingKernel));
    assert!(matches!(config("/dev/zero".as_ref()), ConfigError::FileTooLong { .. }));
}

#[test]
fn a_flag_that_is_not_utf_8_is_an_error() {
    use std::os::unix::ffi::OsStrExt;
    let odd = std::ffi::OsStr::from_bytes(b"--kernel=\xff");
    assert!(matches!(from_args(["whimbrel-vmm".as_ref(), odd]), Err(ConfigError::Flags(_))));
}

#[test]
fn yaml_that_multiplies_itself_is_refused() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let alias = format!("*a{}", level - 1);
        bomb += &format!("a{level}: &a{level} [{}]\n", vec![alias; 10].join(", "));
    }
    assert!(matches!(yaml(&bomb), Err(ConfigError::Yaml { .. })));
}
