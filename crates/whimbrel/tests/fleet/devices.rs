//! Machines with a network, a disk and first settings: placed where these are, moved with them, and nothing is left over.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{Fleet, site::PATIENCE};

/// A bridge of this host, which goes with it; `None`, loudly, where there can be none.
struct Bridge(String);

impl Bridge {
    fn name() -> String {
        format!("wt{}", std::process::id())
    }

    fn make() -> Option<Self> {
        let name = Self::name();
        if !ip(&["link", "add", &name, "type", "bridge"]) {
            eprintln!(
                "SKIPPED: NO MACHINE WITH A NETWORK WAS STARTED. It needs root, and a kernel with bridges"
            );
            return None;
        }
        let bridge = Self(name);
        // So that it shows itself as a network does that is in use.
        ip(&["link", "set", &bridge.0, "up"]).then_some(bridge)
    }

    fn ports(&self) -> usize {
        fs::read_dir(Path::new("/sys/class/net").join(&self.0).join("brif")).map_or(0, Iterator::count)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        ip(&["link", "del", &self.0]);
    }
}

fn ip(arguments: &[&str]) -> bool {
    let done = Command::new("ip").args(arguments).output();
    done.is_ok_and(|done| done.status.success())
}

/// A machine with all of that.
fn manifest(bridge: &str, disk: &Path) -> String {
    let plain = super::manifest("8M disk=200");
    let devices = "devices:
          disks: [{name: data}, {name: settings}]
          interfaces: [{name: lan, bridge: {}, macAddress: '02:00:00:00:00:50'}]
        cpu:";
    let behind = format!(
        "    spec:
      volumes:
        - {{name: data, hostDisk: {{path: {}, shared: true}}}}
        - {{name: settings, cloudInitNoCloud: {{secretRef: {{name: first}}, networkData: 'version: 2'}}}}
      networks: [{{name: lan, hostBridge: {{bridgeName: {bridge}}}}}]
",
        disk.display()
    );
    let with = plain.replacen("cpu:", devices, 1).replacen("    spec:\n", &behind, 1);
    assert!(with.contains("hostBridge") && with.contains("macAddress"), "{with}");
    with
}

/// The figures of the node where the machine is, once the guest has worked on its disk; nothing is wrong with them.
fn figures_of_its_devices(fleet: &Fleet) {
    let node = fleet.get("vmi/busy")["status"]["nodeName"].as_str().unwrap().to_owned();
    let deadline = Instant::now() + PATIENCE;
    let of = |name: &str, device: &str| {
        format!("{name}{{node=\"{node}\",namespace=\"default\",name=\"busy\",{device}}} ")
    };
    let reads = of("kubevirt_vmi_storage_iops_read_total", "drive=\"data\"");
    let value = |text: &str, of: &str| {
        text.lines().find_map(|line| line.strip_prefix(of)?.parse::<f64>().ok()).unwrap_or(0.0)
    };
    let text = loop {
        let text = fleet.kubectl(&format!("get --raw /api/v1/nodes/{node}/proxy/metrics"));
        if value(&text, &reads) > 0.0 {
            break text;
        }
        assert!(Instant::now() < deadline, "{reads}is not in\n{text}");
        thread::sleep(Duration::from_millis(50));
    };
    for (name, device) in [
        ("kubevirt_vmi_storage_read_traffic_bytes_total", "drive=\"data\""),
        ("kubevirt_vmi_storage_read_times_seconds_total", "drive=\"data\""),
        ("kubevirt_vmi_storage_flush_requests_total", "drive=\"settings\""),
        ("whimbrel_vmi_storage_errors_total", "drive=\"data\""),
        ("kubevirt_vmi_network_transmit_bytes_total", "interface=\"lan\""),
    ] {
        assert!(text.contains(&of(name, device)), "{name} is not in\n{text}");
    }
    assert!(value(&text, &of("kubevirt_vmi_storage_read_traffic_bytes_total", "drive=\"data\"")) > 0.0);
    promtool_finds_nothing_wrong_in(&text);
}

fn promtool_finds_nothing_wrong_in(text: &str) {
    let started = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = started else {
        eprintln!("SKIPPED: FIGURES OF AN AGENT WERE NOT CHECKED. There is no promtool (Debian: prometheus)");
        return;
    };
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "{said}\n{text}");
}

/// What the VMM of the machine was told of it, and the disk with settings.
fn folder_of(fleet: &Fleet) -> (String, Vec<u8>) {
    let vmm = fleet.get("vmi/busy")["status"]["vmm"].as_str().unwrap().to_owned();
    let folders = ["node-a", "node-b"].map(|node| fleet.dir().join(node).join("vmms").join(&vmm));
    let folder = folders.iter().find(|folder| folder.exists()).unwrap();
    (fs::read_to_string(folder.join("vm.yaml")).unwrap(), fs::read(folder.join("seed-1.img")).unwrap())
}

#[test]
fn a_machine_waits_for_what_is_behind_its_devices_and_moves_with_it() {
    let Some(fleet) = Fleet::start() else { return };
    let disk = fleet.dir().join("shared/data.raw");
    fleet.create(&manifest(&Bridge::name(), &disk));
    let waits_for = |parts: &[&str]| {
        let why = fleet.wait("vmi/busy", |seen| {
            let why = seen["status"]["conditions"][0]["message"].as_str().unwrap_or_default();
            parts.iter().all(|part| why.matches(part).count() == 2)
        });
        why["status"]["conditions"][0]["message"].as_str().unwrap().to_owned()
    };
    let missing_bridge = format!("it has no bridge {}", Bridge::name());
    let missing_disk = format!("it has no {}", disk.display());
    waits_for(&[&missing_bridge, &missing_disk]);
    let (said, _) = fleet.whimbrel("plan busy");
    assert!(said.contains(&missing_bridge), "{said}");

    let Some(bridge) = Bridge::make() else { return };
    fs::create_dir_all(disk.parent().unwrap()).unwrap();
    fs::File::create(&disk).unwrap().set_len(8 << 20).unwrap();
    let waits = |seen: &serde_json::Value| {
        let conditions = seen["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|one| {
            one["reason"] == "WaitsForSettings"
                && one["message"].as_str().unwrap().contains("no Secret first")
        })
    };
    fleet.wait("vmi/busy", waits);
    assert_eq!((fleet.vmms(), bridge.ports()), ((0, 0), 0), "nothing is begun before all of it is there");
    fleet.kubectl("create secret generic first --from-literal=userdata=#cloud-config-of-busy");
    fleet.wait_phase("vmi/busy", "Running");
    assert_eq!(bridge.ports(), 1);
    figures_of_its_devices(&fleet);
    let (before, settings) = folder_of(&fleet);
    assert!(before.contains("02:00:00:00:00:50"), "{before}");
    for part in ["#cloud-config-of-busy", "instance-id: busy.default", "version: 2", "CIDATA"] {
        assert!(settings.windows(part.len()).any(|window| window == part.as_bytes()), "{part}");
    }

    for _ in 0..2 {
        let (said, is_done) = fleet.whimbrel("migrate busy");
        assert!(is_done, "{said}\n{}", fleet.log());
        fleet.wait_vmms((1, 1));
        assert_eq!(bridge.ports(), 1);
        assert_eq!(folder_of(&fleet).1, settings);
    }
    fleet.kill_vmms();
    fleet.wait_phase("vmi/busy", "Failed");
    fleet.wait_phase("vmi/busy", "Running");
    // That of the machine that runs instead.
    assert_eq!(bridge.ports(), 1, "a network card goes with its machine, however that ends");
    fleet.kubectl("delete vm busy");
    fleet.wait_vmms((0, 0));
    assert_eq!(bridge.ports(), 0);
}

#[test]
fn secrets_are_read_by_those_who_write_them() {
    let Some(fleet) = Fleet::start() else { return };
    fleet.kubectl("create secret generic first --from-literal=userdata=hush");
    fleet.kubectl("create configmap plain --from-literal=a=b");
    let by = |who: &str, line: &str| {
        let kubeconfig = fleet.dir().join(who);
        let output = fleet.run(&format!("{line} --kubeconfig {}", kubeconfig.display()));
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.success(), said)
    };
    let (is_read, said) = by("kubeconfig.operate", "get secret first -o jsonpath={.data.userdata}");
    assert!(is_read && said == "aHVzaA==", "{said}");
    assert!(by("kubeconfig.view", "get configmap plain -o yaml").0);
    // A Secret that is nobody's is as one that is not there, for those who may read neither.
    for (who, name) in
        [("kubeconfig.view", "first"), ("node-a/kubeconfig", "first"), ("node-a/kubeconfig", "none")]
    {
        let (is_read, said) = by(who, &format!("get secret {name}"));
        assert!(!is_read && said.contains("forbidden"), "{who}: {said}");
    }
    for who in ["kubeconfig.view", "node-a/kubeconfig"] {
        let (is_read, said) = by(who, "get secrets -A");
        assert!(!is_read && said.contains("forbidden"), "{who}: {said}");
    }
    assert!(fleet.log().contains("read"), "who reads Secrets is in the log");
}
