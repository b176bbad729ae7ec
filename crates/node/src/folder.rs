//! The folder of a VMM: what is in it, and what the machine in it is.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    net::{IpAddr, SocketAddr},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use config::{LogFormat, RawConfig};
use cpu::CpuModel;
use objects::{Cpu, CpuFeaturePolicy, Disk, DiskCache, Interface, VirtualMachineInstance};
use serde_json::{Value, json};

use crate::{Config, seed::Seed, tap::Tap};

/// What was noted before a VMM was told to migrate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attempt {
    /// UID of the migration.
    pub(crate) uid: String,
    /// The engine's session before it: while that is the same, the engine has not begun.
    pub(crate) before: Option<String>,
}

/// Paths of one VMM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// The folder of a VMM on this node. Names come from objects: one that would lead elsewhere is none.
    pub(crate) fn new(directory: &Path, name: &str) -> Option<Self> {
        let is_name = !name.is_empty()
            && !name.starts_with('.')
            && name.chars().all(|letter| letter.is_ascii_alphanumeric() || "-.".contains(letter));
        is_name.then(|| Self { path: directory.join("vmms").join(name) })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The description of the machine, which also is how its process is found again.
    pub(crate) fn description(&self) -> PathBuf {
        self.path.join("vm.yaml")
    }

    pub(crate) fn monitor(&self) -> PathBuf {
        self.path.join("monitor.sock")
    }

    /// The socket of the serial port.
    pub(crate) fn console(&self) -> PathBuf {
        self.path.join("serial.sock")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.path.join("vmm.log")
    }

    /// Is there once a process was started, or was about to be.
    pub(crate) fn mark(&self) -> PathBuf {
        self.path.join("started")
    }

    /// The migration that the VMM was last told to do, or was about to be.
    pub(crate) fn attempt(&self) -> Option<Attempt> {
        let text = fs::read_to_string(self.path.join("attempt")).ok()?;
        let mut words = text.split_whitespace().map(str::to_owned);
        Some(Attempt { uid: words.next()?, before: words.next() })
    }

    /// Notes a migration, before the VMM is told.
    pub(crate) fn note(&self, attempt: &Attempt) -> io::Result<()> {
        let unfinished = self.path.join(".attempt");
        fs::write(&unfinished, format!("{} {}", attempt.uid, attempt.before.as_deref().unwrap_or_default()))?;
        fs::rename(unfinished, self.path.join("attempt"))
    }

    /// Has how the process ended, if its parent was there to see.
    pub(crate) fn end(&self) -> PathBuf {
        self.path.join("end")
    }

    /// Whether the process ended well; `None` where nobody saw.
    pub(crate) fn success(&self) -> Option<bool> {
        fs::read_to_string(self.end()).ok().map(|text| text.trim() == "0")
    }

    /// Makes the folder and describes the machine in it, with what was made for it.
    pub(crate) fn prepare(
        &self,
        config: &Config,
        instance: &VirtualMachineInstance,
        from: Option<Incoming<'_>>,
        kit: &Kit,
    ) -> io::Result<()> {
        fs::create_dir_all(self.path.join("reports"))?;
        for (volume, seed) in &kit.seeds {
            self.write_seed(*volume, &seed.image()?)?;
        }
        let description = describe(self, config, instance, from, kit);
        // What is written can be read: a description that is wrong is found here, with the field's name.
        RawConfig::from_yaml(&description, "the machine's description").map_err(io::Error::other)?;
        let unfinished = self.path.join(".vm.yaml");
        fs::write(&unfinished, description)?;
        fs::rename(unfinished, self.description())
    }

    /// The disk with first settings behind a volume.
    fn seed(&self, volume: usize) -> PathBuf {
        self.path.join(format!("seed-{volume}.img"))
    }

    /// Settings have passwords and keys in them.
    fn write_seed(&self, volume: usize, image: &[u8]) -> io::Result<()> {
        let (path, unfinished) = (self.seed(volume), self.path.join(".seed"));
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        file.write_all(image)?;
        fs::rename(unfinished, path)
    }

    /// The last lines of its log that say what went wrong.
    pub(crate) fn last_words(&self) -> String {
        let text = fs::read(self.log())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default();
        let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let last: Vec<_> = lines[lines.len().saturating_sub(3)..].iter().map(|line| line.trim()).collect();
        last.join(" / ").chars().take(1000).collect()
    }
}

/// The names of the VMMs in an agent's directory.
///
/// # Errors
/// The directory cannot be read; one that is not there has none.
pub fn vmm_folders(directory: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory.join("vmms")) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter(|name| Folder::new(directory, name).is_some()).collect())
}

/// A machine that comes from another node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Incoming<'a> {
    /// The node.
    pub(crate) source: &'a str,
    /// Where it comes to.
    pub(crate) address: IpAddr,
}

/// What is made for a VMM before it starts.
#[derive(Debug, Default)]
pub(crate) struct Kit {
    /// First settings of the guest, by the position of the volume.
    pub(crate) seeds: BTreeMap<usize, Seed>,
    /// What is behind its network cards, in their order.
    pub(crate) taps: Vec<Tap>,
}

/// The machine as `whimbrel-vmm --config` takes it. JSON is YAML, and what is in it cannot break out of it.
fn describe(
    folder: &Folder,
    config: &Config,
    instance: &VirtualMachineInstance,
    from: Option<Incoming<'_>>,
    kit: &Kit,
) -> String {
    let domain = &instance.spec.domain;
    let boot = &domain.firmware.kernel_boot;
    let workload = config.workload.display().to_string();
    let (kernel, initrd) = match &boot.host {
        Some(host) => (host.kernel_path.clone(), host.initrd_path.clone()),
        None => (workload, None),
    };
    let at = |name: &str| folder.path().join(name).display().to_string();
    let metadata = &instance.metadata;
    let mut machine = json!({
        "name": metadata.name.as_deref().unwrap_or("vm").chars().take(63).collect::<String>(),
        "uuid": metadata.uid,
        "memory": format!("{}M", domain.memory.guest.bytes().unwrap_or(0) >> 20),
        "memory-backing": if domain.memory.hugepages.is_some() { "hugetlb" } else { "memfd" },
        "cpus": domain.cpu.cores,
        "cpu": processor(&domain.cpu),
        "kernel": kernel,
        "cmdline": boot.kernel_args.clone().unwrap_or_default(),
        "disks": disks(folder, instance),
        "nets": nets(instance, kit),
        "serial": format!("unix:{},logfile={}", folder.console().display(), at("serial.log")),
        "monitor": format!("unix:{}", folder.monitor().display()),
        "report-dir": at("reports"),
        // Where nothing is said it is left out: an older VMM does not know it.
        "log-format": (config.log_format != LogFormat::Text).then_some(config.log_format),
        "tls": config.tls.display().to_string(),
    });
    if let Some(initrd) = initrd {
        machine["initrd"] = initrd.into();
    }
    if let Some(Incoming { source, address }) = from {
        machine["incoming"] = format!("tcp:{}", SocketAddr::new(address, 0)).into();
        machine["tls-authz"] = format!("dns:{source}").into();
    }
    if let Some(machine) = machine.as_object_mut() {
        machine.retain(|_, value| !matches!(value, Value::Null));
    }
    machine.to_string()
}

fn disks(folder: &Folder, instance: &VirtualMachineInstance) -> Vec<Value> {
    let spec = &instance.spec;
    let disk = |disk: &Disk| {
        let (index, volume) = spec.volumes.iter().enumerate().find(|(_, volume)| volume.name == disk.name)?;
        let mut description = match (&volume.host_disk, &volume.cloud_init_no_cloud) {
            (Some(image), _) => {
                let default = if image.shared { DiskCache::None } else { DiskCache::Writeback };
                let is_direct = disk.cache.unwrap_or(default) == DiskCache::None;
                json!({ "path": image.path, "readonly": disk.disk.readonly, "direct": is_direct })
            }
            (None, Some(_)) => json!({ "path": folder.seed(index).display().to_string(), "readonly": true }),
            (None, None) => return None,
        };
        if let Some(serial) = &disk.serial {
            description["serial"] = serial.as_str().into();
        }
        Some(description)
    };
    spec.domain.devices.disks.iter().filter_map(disk).collect()
}

/// Cards in the order of the object, each with the tap that was made for it.
fn nets(instance: &VirtualMachineInstance, kit: &Kit) -> Vec<Value> {
    let metadata = &instance.metadata;
    let (namespace, name) = (metadata.namespace.as_deref(), metadata.name.as_deref());
    let net = |(card, tap): (&Interface, &Tap)| {
        let mac = card.mac(namespace.unwrap_or_default(), name.unwrap_or_default()).unwrap_or_default();
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        json!({ "fd": tap.number().to_string(), "mac": mac })
    };
    instance.spec.domain.devices.interfaces.iter().zip(&kit.taps).map(net).collect()
}

/// What a machine sees of its processor, as the VMM has it; `None` where nothing is said of it.
fn processor(cpu: &Cpu) -> Option<String> {
    if cpu.model.is_none() && cpu.features.is_empty() {
        return None;
    }
    let mut words = vec![cpu.named_model().unwrap_or("host").to_owned()];
    words.extend(cpu.features_to(CpuFeaturePolicy::Require).map(|name| format!("+{name}")));
    words.extend(cpu.features_to(CpuFeaturePolicy::Disable).map(|name| format!("-{name}")));
    // Nor is it seen where the node has changed since it was chosen, as far as that is for anybody to choose.
    // A name that nobody knows is of a release that did not look, and nothing is shown by it.
    let forbidden = cpu.features_to(CpuFeaturePolicy::Forbid);
    let forbidden = forbidden.filter(|name| ::cpu::by_name(name).is_some() && !CpuModel::is_fixed(name));
    words.extend(forbidden.map(|name| format!("-{name}")));
    Some(words.join(","))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_name_that_leads_elsewhere_is_no_folder() {
        let folder = |name| Folder::new(Path::new("/x"), name);
        assert_eq!(folder("busy-0.1").unwrap().path(), Path::new("/x/vmms/busy-0.1"));
        for wrong in ["", ".", "..", "../y", "a/b", ".hidden", "a\0b"] {
            assert_eq!(folder(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_description_is_what_a_vmm_takes() {
        let instance: VirtualMachineInstance = serde_json::from_value(json!({
            "apiVersion": "whimbrel.dev/v1", "kind": "VirtualMachineInstance",
            "metadata": { "name": "busy", "uid": "6c1a4b5e-7f0e-4a3c-9b57-3d2f9a1c0e11" },
            "spec": {
                "domain": {
                    "memory": { "guest": "256Mi" }, "cpu": { "model": "x86-64-v2", "features": [
                        { "name": "lzcnt" }, { "name": "popcnt", "policy": "disable" },
                        { "name": "avx", "policy": "forbid" }, { "name": "svm", "policy": "forbid" },
                        { "name": "no-such-thing", "policy": "forbid" },
                    ] }, "devices": { "disks": [{ "name": "root", "serial": "r" }, { "name": "seed" }] },
                    "firmware": { "kernelBoot": { "kernelArgs": "a: \"b\" # c", "container": { "image": "x" } } },
                },
                "volumes": [
                    { "name": "root", "hostDisk": { "path": "/d,isk", "shared": true } },
                    { "name": "seed", "cloudInitNoCloud": { "userData": "#cloud-config" } },
                ],
            },
        }))
        .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let config = Config {
            name: "a".to_owned(),
            directory: folder.path().to_owned(),
            vmm: "/vmm".into(),
            workload: "/kernel".into(),
            tls: "/tls".into(),
            address: "::1".parse().unwrap(),
            migration_address: None,
            share: 1.0,
            leases: "default".to_owned(),
            registration: crate::Registration::Agent,
            cgroup: None,
            log_format: LogFormat::Json,
        };
        let own = Folder::new(folder.path(), "busy").unwrap();
        let seed = Seed { user: b"#cloud-config".to_vec(), ..Seed::default() };
        let kit = Kit { seeds: [(1, seed)].into(), taps: Vec::new() };
        let incoming = Incoming { source: "b", address: "::1".parse().unwrap() };
        own.prepare(&config, &instance, Some(incoming), &kit).unwrap();
        let text = fs::read_to_string(own.description()).unwrap();
        let raw = RawConfig::from_yaml(&text, "test").unwrap();
        assert_eq!(raw.incoming.unwrap().to_string(), "tcp:[::1]:0");
        assert_eq!(raw.tls_authz.as_deref(), Some("dns:b"));
        assert_eq!((raw.disks[0].direct, raw.disks[1].direct, raw.disks[1].readonly), (true, false, true));
        let seed = own.seed(1);
        assert_eq!(raw.disks[1].path.to_string(), seed.display().to_string());
        assert_eq!(fs::metadata(seed).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(raw.log_format, Some(LogFormat::Json));
        assert_eq!(raw.cpu.unwrap().to_string(), "x86-64-v2,+abm,-popcnt,-avx");
        assert_eq!(vmm_folders(folder.path()).unwrap(), ["busy"]);
    }
}
