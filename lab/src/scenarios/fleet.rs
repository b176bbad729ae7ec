//! The fleet, as docs/first-machine.md has it: its control plane on this machine, agents on both hosts, and a Linux guest with a disk that both share, a
//! network card on their bridge, and first settings. Its kernel comes out of its disk.
//!
//! What is not as the page has it: the disk is the lab's and not Debian's, since Debian's init takes many minutes on emulated hosts. So nobody logs in by SSH but
//! the lab by its agent, and settings are read by the guest's kernel and not carried out by cloud-init. The disk is the block device of which the page
//! speaks, and what a machine boots lies on both hosts at the same path.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use super::{check, say};
use crate::{
    Host, Lab, LabError, Remote, Spawned, Spec,
    programs::{find, run},
};

/// How long an agent may take to join, and a machine to start or to move.
const PATIENCE: Duration = Duration::from_secs(60);
/// How this machine is called by hosts.
const THIS_MACHINE: &str = "10.0.2.2";
/// Where agents keep their files.
const AGENT: &str = "/run/node";
/// Where hosts have what machines boot.
const BOOT: &str = "/srv/vms";
/// The network of migrations. Each host has one address in it, which its agent has to find.
const NETWORK: &str = "10.88.0";

/// A control plane on this machine. It ends when this is dropped.
struct Plane {
    tool: PathBuf,
    kubectl: PathBuf,
    folder: TempDir,
    program: Child,
    /// How long what drives it may take.
    limit: Duration,
}

impl Plane {
    fn start(lab: &Lab, kubectl: PathBuf) -> Result<Self, LabError> {
        let folder = tempfile::tempdir().map_err(LabError::system("make a folder for the control plane"))?;
        let tool = lab.images().programs().tool.clone();
        let mut command = Command::new(&tool);
        command.args(["controlplane", "--listen", "127.0.0.1:0", "--name", THIS_MACHINE, "--dir"]);
        command.arg(folder.path()).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut program = command.spawn().map_err(LabError::system("start a control plane"))?;
        let said = program.stdout.take();
        let (sender, first) = mpsc::channel();
        thread::spawn(move || {
            let mut lines = BufReader::new(said?).lines();
            // Nobody may wait for it any more.
            let _ = sender.send(lines.next()?.ok()?);
            // What it says further on has a reader, so that it does not fail.
            lines.for_each(drop);
            Some(())
        });
        let plane = Self { tool, kubectl, folder, program, limit: lab.pace().stretch(3 * PATIENCE) };
        let first = first.recv_timeout(lab.pace().stretch(PATIENCE)).unwrap_or_default();
        check(first.starts_with("The control plane is up"), || {
            format!("The control plane does not come up: {}", plane.log())
        })?;
        Ok(plane)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("whimbrel.log")).unwrap_or_default()
    }

    fn ticket(&self) -> PathBuf {
        self.folder.path().join("ticket")
    }

    fn client(&self, program: &Path, words: &[&str]) -> Result<String, LabError> {
        let kubeconfig = self.folder.path().join("kubeconfig");
        // A migration that waits for ever would keep `whimbrel migrate` for ever.
        let limit = self.limit.as_secs().to_string();
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", &limit]).arg(program).args(words).env("KUBECONFIG", kubeconfig);
        let said = run(&mut command)?;
        Ok(String::from_utf8_lossy(&said).into_owned())
    }

    fn kubectl(&self, line: &str) -> Result<String, LabError> {
        self.client(&self.kubectl, &line.split_whitespace().collect::<Vec<_>>())
    }

    fn whimbrel(&self, line: &str) -> Result<String, LabError> {
        self.client(&self.tool, &line.split_whitespace().collect::<Vec<_>>())
    }

    fn create(&self, manifest: &str) -> Result<(), LabError> {
        let file = self.folder.path().join("manifest.yaml");
        fs::write(&file, manifest).map_err(LabError::file("write", &file))?;
        self.kubectl(&format!("create -f {}", file.display())).map(drop)
    }

    /// Waits until it holds of an object.
    fn wait(&self, lab: &Lab, what: &str, holds: impl Fn(&Value) -> bool) -> Result<Value, LabError> {
        lab.pace().until(&format!("{what} is as it should be"), PATIENCE, || {
            // Asked again soon: what fails now may not then.
            let said = self.kubectl(&format!("get {what} -o json")).unwrap_or_default();
            let seen: Value = serde_json::from_str(&said).unwrap_or_default();
            if holds(&seen) {
                return Ok(Some(seen));
            }
            thread::sleep(Duration::from_millis(200));
            Ok(None)
        })
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

/// The agent of a host. It ends when what is returned is dropped; machines do not.
fn join(lab: &Lab, plane: &Plane, host: &Host) -> Result<Spawned, LabError> {
    let remote = host.remote();
    remote.put(&plane.tool, "/bin/whimbrel", 0o755)?;
    remote.put(&plane.ticket(), "/tmp/ticket", 0o600)?;
    remote.run(&format!("mkdir -p {BOOT}"))?;
    for ending in ["vmlinuz", "initrd"] {
        remote.put(&lab.root_disk().with_extension(ending), &format!("{BOOT}/guest.{ending}"), 0o644)?;
    }
    let (name, address) = (host.name(), host.address());
    let number = address.rsplit('.').next().unwrap_or_default();
    remote.run(&format!("ip addr add {NETWORK}.{number}/24 dev br0"))?;
    let agent = [
        "whimbrel",
        "node",
        "--dir",
        AGENT,
        "--vmm",
        "/bin/whimbrel-vmm",
        "--join",
        "/tmp/ticket",
        "--name",
        name,
        "--address",
        &address,
    ];
    host.remote().spawn_logged(&agent, &lab.logs().join(format!("{name}-agent")))
}

/// A guest of the lab, as an object: what its kernel is told is what it is told elsewhere.
fn manifest() -> String {
    format!(
        "
apiVersion: v1
kind: Secret
metadata: {{name: guest-settings}}
stringData: {{userdata: '#cloud-config of the lab'}}
---
apiVersion: whimbrel.dev/v1
kind: VirtualMachine
metadata: {{name: guest}}
spec:
  runStrategy: Once
  template:
    spec:
      domain:
        memory: {{guest: 192Mi}}
        devices:
          disks: [{{name: root}}, {{name: settings}}]
          interfaces: [{{name: lan, bridge: {{}}}}]
        firmware:
          kernelBoot:
            host: {{kernelPath: {BOOT}/guest.vmlinuz, initrdPath: {BOOT}/guest.initrd}}
            kernelArgs: {}
      volumes:
        - {{name: root, hostDisk: {{path: /dev/vda, shared: true}}}}
        - {{name: settings, cloudInitNoCloud: {{secretRef: {{name: guest-settings}}}}}}
      networks: [{{name: lan, hostBridge: {{bridgeName: br0}}}}]
",
        Spec::linux(1).linux_cmdline()
    )
}

/// Cards of machines in a host's bridge.
fn cards(host: &Host) -> Result<usize, LabError> {
    Ok(host.remote().run("ls /sys/class/net/br0/brif")?.lines().filter(|port| port.starts_with("wb")).count())
}

pub(super) fn first_machine(lab: &Lab) -> Result<(), LabError> {
    let Some(kubectl) = find("kubectl") else {
        say("SKIPPED: THERE IS NO kubectl");
        return Ok(());
    };
    lab.fresh_root_with_kernel()?;
    let plane = Plane::start(lab, kubectl)?;
    let disk = lab.root_disk().display();
    let said = plane.whimbrel(&format!("image kernel {disk}"))?;
    check(
        said.contains(&format!("kernelPath: {}", lab.root_disk().with_extension("vmlinuz").display())),
        || format!("The disk has another kernel: {said}"),
    )?;
    plane.create(&format!(
        "apiVersion: whimbrel.dev/v1\nkind: Fleet\nmetadata: {{name: fleet}}\nspec: {{configuration: {{migrations: {{network: {NETWORK}.0/24}}}}}}\n"
    ))?;
    let _agents: Vec<_> = lab.hosts().iter().map(|host| join(lab, &plane, host)).collect::<Result<_, _>>()?;
    for host in lab.hosts() {
        let is_fit = |seen: &Value| {
            let comes_to = seen["metadata"]["annotations"]["whimbrel.dev/migration-address"].as_str();
            let is_on_network = comes_to.is_some_and(|address| address.starts_with(NETWORK));
            is_on_network && seen["metadata"]["labels"]["bridge.whimbrel.dev/br0"] == "true"
        };
        plane.wait(lab, &format!("node/{}", host.name()), is_fit)?;
    }
    plane.create(&manifest())?;
    let placed = plane.wait(lab, "vmi/guest", |seen| seen["status"]["phase"] == "Running")?;
    let guest = |seen: &Value| -> Result<(&Host, Remote), LabError> {
        let host = lab.host(seen["status"]["nodeName"].as_str().unwrap_or_default());
        Ok((host, host.remote().through("guest", SocketAddr::new(Spec::address().into(), 7))))
    };
    let (mut here, mut remote) = guest(&placed)?;
    lab.pace().until("the guest is up", 2 * PATIENCE, || Ok(remote.run("true").ok().map(drop)))?;
    let boot = remote.run("cat /proc/sys/kernel/random/boot_id; echo kept >/kept")?;
    let settings = remote.run(
        "busybox mkdir -p /tmp/seed && mount -t vfat -o ro /dev/vdb /tmp/seed && cat /tmp/seed/user-data /tmp/seed/meta-data && umount /tmp/seed",
    )?;
    let expected = "#cloud-config of the labinstance-id: guest.default\nlocal-hostname: guest\n";
    check(settings == expected, || format!("The guest reads other settings: {settings:?}"))?;
    for _ in 0..2 {
        let said = plane.whimbrel("plan guest")?;
        check(said.contains("A migration would go to"), || format!("The plan is another one: {said}"))?;
        let said = plane.whimbrel("migrate guest")?;
        say(said.lines().last().unwrap_or_default());
        let moved = plane.wait(lab, "vmi/guest", |seen| seen["status"]["nodeName"] != here.name())?;
        let left = here;
        (here, remote) = guest(&moved)?;
        check(remote.run("cat /proc/sys/kernel/random/boot_id /kept")? == format!("{boot}kept\n"), || {
            "The guest is another one than before".to_owned()
        })?;
        lab.pace().until("the card is where the machine is", PATIENCE, || {
            Ok((cards(here)? == 1 && cards(left)? == 0).then_some(()))
        })?;
    }
    let moves: Value = serde_json::from_str(&plane.kubectl("get vmim -o json")?).unwrap_or_default();
    for one in moves["items"].as_array().into_iter().flatten() {
        let to = &one["status"]["migrationState"]["targetNodeAddress"];
        let is_on_network = to.as_str().is_some_and(|to| to.starts_with(&format!("tcp:{NETWORK}.")));
        check(is_on_network, || {
            format!("A migration went to {to}, which is not on the network of migrations")
        })?;
    }
    let order = "sync; mount -o remount,ro /; ip link set eth0 down; poweroff -f";
    let _order = remote.spawn(&["sh", "-c", order])?;
    plane.wait(lab, "vmi/guest", |seen| seen["status"]["phase"] == "Succeeded")?;
    let e2fsck = find("e2fsck").unwrap_or_else(|| "e2fsck".into());
    run(Command::new(e2fsck).args(["-f", "-n"]).arg(lab.root_disk()))?;
    plane.kubectl("delete vm guest")?;
    for host in lab.hosts() {
        check(cards(host)? == 0, || format!("A card is left on {}", host.name()))?;
        let folders = host.remote().run(&format!("ls {AGENT}/vmms"))?;
        check(folders.is_empty(), || format!("{} keeps {folders}", host.name()))?;
        host.remote()
            .run(&format!("rm -rf {AGENT} {BOOT} /bin/whimbrel; ip addr flush dev br0 to {NETWORK}.0/24"))?;
    }
    Ok(())
}
