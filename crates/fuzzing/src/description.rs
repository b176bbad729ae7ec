//! Machine descriptions: the YAML file, the flags, and single values.

use std::{fmt::Display, str::FromStr};

use config::{
    Config, ConfigError, FilePath, Incoming, Invocation, MacAddress, MemorySize, MonitorSocket, RawConfig,
    RawDisk, RawNet, SerialPort, VmName, from_args,
};

const FULL: &str = "\
name: db-1
uuid: 6c1a4b5e-7f0e-4a3c-9b57-3d2f9a1c0e11
memory: 4G
memory-backing: hugetlb
cpus: 4
kernel: vmlinuz
initrd: initrd.img
cmdline: 'console=ttyS0 # x'
disks:
- {path: root.img, serial: root}
- path: data.img
  readonly: true
nets: [{tap: tap0, mac: 02:00:00:00:00:01}, {fd: 7}]
rng: off
serial: file:console.log
monitor: unix:/run/m,server=on,wait=off
incoming: tcp:[::1]:4444
may-differ: [name, uuid, mac, image]
tls: /etc/tls
tls-hostname: b
tls-authz: dns:a;*
insecure: false
paused: true
seccomp: log
report-dir: reports/
log: debug
";

const FLAGS: &[&str] = &[
    "--kernel=k --memory=2G --cpus=4 --disk path=a,,b,readonly=on --net tap=t0,mac=02:00:00:00:00:01",
    "--incoming tcp:[::1]:0 --insecure --paused=off -S",
    "--kernel k --qmp unix:/m,server=on,wait=off --serial unix:/s --seccomp log --log trace",
    "--kernel k --print-config",
    "--help",
];

pub(crate) fn yaml(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(config) = RawConfig::from_yaml(text, "fuzz").and_then(Config::new) {
        reads_back(&config);
    }
}

pub(crate) fn yaml_seeds() -> Vec<Vec<u8>> {
    [
        FULL,
        "kernel: k\n",
        "a: &a [*a, <<: {b: !!str 1}]\n",
        "kernel: |\n  k\n---\n",
        "{kernel: \"\\u0000\"}",
        "? - \n: - ",
    ]
    .map(Into::into)
    .to_vec()
}

/// Flags are separated by blanks. Files are not opened: a description file is for the other target.
pub(crate) fn flags(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let flags: Vec<_> = text.split(' ').filter(|flag| !flag.starts_with("--config")).collect();
    match from_args([&["whimbrel-vmm"], &flags[..]].concat()) {
        Ok(Invocation::Run(config)) => reads_back(&config),
        Ok(Invocation::PrintCpu) => {}
        Ok(Invocation::Print(text)) => assert!(!text.is_empty(), "nothing is printed"),
        Err(ConfigError::Read { .. }) => panic!("a file was opened"),
        Err(error) => assert!(!error.to_string().is_empty(), "{error:?} says nothing"),
    }
}

pub(crate) fn flag_seeds() -> Vec<Vec<u8>> {
    FLAGS.iter().map(|flags| flags.as_bytes().to_vec()).collect()
}

pub(crate) fn values(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    prints_as_parsed::<MemorySize>(text);
    prints_as_parsed::<MacAddress>(text);
    prints_as_parsed::<Incoming>(text);
    prints_as_parsed::<SerialPort>(text);
    prints_as_parsed::<MonitorSocket>(text);
    prints_as_parsed::<FilePath>(text);
    prints_as_parsed::<VmName>(text);
    let _ = text.parse::<RawDisk>();
    let _ = text.parse::<RawNet>();
}

pub(crate) fn value_seeds() -> Vec<Vec<u8>> {
    [
        "512M",
        "18446744073709551615T",
        "02:00:00:00:00:01",
        "tcp:[::1]:65535",
        "tcp:host.example:1",
        "unix:/a,,b,server=on",
        "defer",
        "file:/a",
        "path=/a,,b,readonly=on,serial=x",
        "tap=t0,mac=02:00:00:00:00:01",
        "fd=2147483647",
    ]
    .map(Into::into)
    .to_vec()
}

/// The one thing that `--print-config` promises.
fn reads_back(config: &Config) {
    let yaml = config.to_yaml();
    let again = RawConfig::from_yaml(&yaml, "printed").and_then(Config::new);
    assert!(again.as_ref().is_ok_and(|again| again == config), "{again:?} of:\n{yaml}");
}

fn prints_as_parsed<T>(text: &str)
where
    T: FromStr + Display + PartialEq + std::fmt::Debug,
{
    if let Ok(value) = text.parse::<T>() {
        let printed = value.to_string();
        assert!(printed.parse::<T>().is_ok_and(|again| again == value), "{value:?} prints as {printed:?}");
    }
}
