//! `whimbrel bench --fleet`: what a control plane does with many machines. The machines are objects alone, written into its store beforehand; the
//! control plane is a process of its own, reached as by any client.

use std::{
    error::Error,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    sync::{Arc, OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use ::fleet::World;
use futures_util::{AsyncBufReadExt, StreamExt};
use kube::Client;
use objects::{MigrationPlanSpec, NodeDrainPlanSpec, VirtualMachineInstance};
use parking_lot::Mutex;
use serde_json::{Value, json};
use store::{Expect, Limits, Store};
use tempfile::TempDir;
use tokio::{runtime::Builder, time::sleep};

use crate::{
    reach,
    rig::{Interrupt, Interrupted, resident_bytes},
    up::{Site, make_private},
};

/// A fleet, and what its control plane is to keep to.
struct Size {
    machines: usize,
    nodes: usize,
    watchers: usize,
    list: Duration,
    /// In MiB.
    memory: u64,
}

/// One that fits in a room, and one that fills a hall.
const SIZES: [Size; 2] = [
    Size { machines: 1_000, nodes: 40, watchers: 100, list: Duration::from_millis(100), memory: 150 },
    Size { machines: 10_000, nodes: 200, watchers: 500, list: Duration::from_millis(300), memory: 400 },
];

/// Writes that watchers are told of, and the time between them.
const TOLD: (usize, Duration) = (100, Duration::from_millis(100));
/// Clients that write at a time, and for how long.
const WRITERS: (usize, Duration) = (32, Duration::from_secs(5));
/// Nodes of the drain that is planned.
const DRAINED: usize = 20;
/// How long the control plane may take to start, and how long a signal may go unnoticed.
const START: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(100);
const INSTANCES: &str = "/apis/whimbrel.dev/v1/virtualmachineinstances";

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Measures, and prints each figure with its goal.
pub(super) fn run() -> Outcome<ExitCode> {
    // From here on a signal ends it in order: the folder and the control plane go with it.
    let interrupt = Interrupt::install()?;
    SIZES.iter().try_for_each(|size| of_size(size, &interrupt))?;
    Ok(ExitCode::SUCCESS)
}

fn of_size(size: &Size, interrupt: &Interrupt) -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let site = Site::at(Some(folder.path()))?;
    output::say!("{} machines on {} nodes, {} watchers", size.machines, size.nodes, size.watchers);
    fill(size, &site, interrupt)?;
    let began = Instant::now();
    let plane = Plane::start(&folder)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let measured = async {
        let client = mirror::connect(&site.kubeconfig()).await?;
        get(&client, "/api/v1/nodes").await?;
        figure("start from disk to the first reply", began.elapsed(), Duration::from_secs(3));
        list(size, &client).await?;
        decisions(size, &client).await?;
        let writes = status_writes(size, &site).await?;
        output::say!("{:44} {writes:>9.0} /s   goal 1000 /s   {}", "status writes", met(writes >= 1000.0));
        figure("watch latency, p99", watch(size, &site, &client).await?, Duration::from_millis(20));
        let bytes = resident_bytes(plane.0.id()).ok_or("The control plane has ended")?;
        output::say!(
            "{:44} {:>9} MiB  goal {} MiB   {}",
            "memory of the control plane",
            bytes >> 20,
            size.memory,
            met(bytes <= size.memory << 20)
        );
        Ok(())
    };
    runtime.block_on(async {
        tokio::select! {
            outcome = measured => outcome,
            interrupted = interrupted(interrupt) => Err(interrupted.into()),
        }
    })
}

async fn interrupted(interrupt: &Interrupt) -> Interrupted {
    loop {
        if let Err(interrupted) = interrupt.check() {
            return interrupted;
        }
        sleep(LOOK).await;
    }
}

fn figure(what: &str, took: Duration, goal: Duration) {
    let millis = took.as_secs_f64() * 1e3;
    output::say!("{what:44} {millis:>9.1} ms   goal {} ms   {}", goal.as_millis(), met(took <= goal));
}

fn met(is_met: bool) -> &'static str {
    if is_met { "met" } else { "MISSED" }
}

/// Only writes the machines, into a directory for a control plane to be started with: for who measures something else of it.
pub(super) fn fill_only(directory: &Path) -> Outcome<ExitCode> {
    let interrupt = Interrupt::install()?;
    fill(&SIZES[1], &Site::at(Some(directory))?, &interrupt)?;
    Ok(ExitCode::SUCCESS)
}

/// A control plane in a process of its own.
struct Plane(Child);

impl Plane {
    fn start(folder: &TempDir) -> Outcome<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["controlplane", "--listen", "127.0.0.1:0", "--dir"])
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take();
        let plane = Self(child);
        let mut lines = BufReader::new(stdout.ok_or("It has no output")?).lines();
        let (first, heard) = mpsc::channel();
        thread::spawn(move || {
            // Whoever waited has left by then, if it fails.
            let _ = first.send(lines.next());
            // What it says further on has a reader, so that it does not fail.
            lines.for_each(drop);
        });
        let said = heard.recv_timeout(START).ok().flatten().ok_or("The control plane did not start")??;
        if !said.starts_with("The control plane is up") {
            return Err(said.into());
        }
        Ok(plane)
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Writes the fleet into the store.
fn fill(size: &Size, site: &Site, interrupt: &Interrupt) -> Outcome<()> {
    make_private(site.directory())?;
    let store = Store::open(&site.store(), Limits::default())?;
    let put =
        |key: String, value: Value| store.put(&key, Expect::Absent, value.to_string().as_bytes()).map(drop);
    let began = Instant::now();
    for index in 0..size.nodes {
        let name = format!("node-{index:03}");
        put(format!("/nodes/{name}"), node(&name, index))?;
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {
                "name": name, "namespace": "default", "uid": format!("lease-{index}"), "labels": { objects::LEASE_LABEL: name },
            },
            // One that says no time is never late.
            "spec": { "holderIdentity": name },
        });
        put(format!("coordination.k8s.io/leases/default/{name}"), lease)?;
    }
    for index in 0..size.machines {
        interrupt.check()?;
        let name = format!("vm-{index:05}");
        let (machine, instance) = (machine(&name, index), instance(&name, index, size.nodes));
        put(format!("whimbrel.dev/virtualmachines/default/{name}"), machine)?;
        put(format!("whimbrel.dev/virtualmachineinstances/default/{name}"), instance)?;
    }
    let writes = 2 * (size.nodes + size.machines);
    output::say!(
        "{:44} {:>9.0} /s",
        "writes of the store alone",
        writes as f64 / began.elapsed().as_secs_f64()
    );
    Ok(())
}

fn node(name: &str, index: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": name, "uid": format!("node-{index}"), "labels": { "kubernetes.io/hostname": name },
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "status": {
            "conditions": [{ "type": "Ready", "status": "True", "reason": "Ready" }],
            "allocatable": { "memory": "256Gi", "cpu": "64", "hugepages-2Mi": "0" },
        },
    })
}

fn spec() -> Value {
    json!({ "domain": {
        "cpu": { "cores": 2 }, "memory": { "guest": "2Gi" },
        "firmware": { "kernelBoot": { "container": { "image": "whimbrel.dev/workload" }, "kernelArgs": "work=64M rate=50M" } },
    }})
}

fn machine(name: &str, index: usize) -> Value {
    json!({
        "apiVersion": "whimbrel.dev/v1", "kind": "VirtualMachine",
        "metadata": {
            "name": name, "namespace": "default", "uid": format!("machine-{index}"), "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": { "runStrategy": "Always", "template": { "metadata": { "labels": { "app": "bench" } }, "spec": spec() } },
        "status": { "created": true, "ready": true, "printableStatus": "Running", "conditions": [ready()] },
    })
}

fn instance(name: &str, index: usize, nodes: usize) -> Value {
    json!({
        "apiVersion": "whimbrel.dev/v1", "kind": "VirtualMachineInstance",
        "metadata": {
            "name": name, "namespace": "default", "uid": format!("{index:08x}"), "labels": { "app": "bench" },
            "creationTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["whimbrel.dev/vmm"],
            "ownerReferences": [{
                "apiVersion": "whimbrel.dev/v1", "kind": "VirtualMachine", "name": name, "uid": format!("machine-{index}"),
                "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "spec": spec(),
        "status": {
            "phase": "Running", "nodeName": format!("node-{:03}", index % nodes), "vmm": format!("{name}-{index:08x}"),
            "phaseTransitionTimestamps": [
                { "phase": "Pending", "phaseTransitionTimestamp": "2026-01-01T00:00:00Z" },
                { "phase": "Scheduled", "phaseTransitionTimestamp": "2026-01-01T00:00:00Z" },
                { "phase": "Running", "phaseTransitionTimestamp": "2026-01-01T00:00:01Z" },
            ],
            "conditions": [ready(), { "type": "LiveMigratable", "status": "True", "reason": "CanMove" }],
        },
    })
}

fn ready() -> Value {
    json!({ "type": "Ready", "status": "True", "reason": "GuestRunning", "lastTransitionTime": "2026-01-01T00:00:01Z" })
}

async fn get(client: &Client, path: &str) -> Outcome<String> {
    let request = http::Request::get(path).body(Vec::new())?;
    Ok(client.request_text(request).await?)
}

/// The median of some lists of all instances.
async fn list(size: &Size, client: &Client) -> Outcome<()> {
    let mut took = Vec::new();
    for _ in 0..7 {
        let began = Instant::now();
        let text = get(client, INSTANCES).await?;
        took.push(began.elapsed());
        if text.matches("\"VirtualMachineInstance\"").count() != size.machines {
            return Err("The list is not whole".into());
        }
    }
    took.sort();
    figure("list of all instances", took[took.len() / 2], size.list);
    Ok(())
}

/// What is decided, on the objects as a client has them.
async fn decisions(size: &Size, client: &Client) -> Outcome<()> {
    let world = reach::world(client).await?;
    let mut pending = VirtualMachineInstance::clone(world.instances.first().ok_or("There is no instance")?);
    pending.status = None;
    let best = |work: &dyn Fn()| {
        let times = (0..9).map(|_| {
            let began = Instant::now();
            work();
            began.elapsed()
        });
        let mut times: Vec<_> = times.collect();
        times.sort();
        times[times.len() / 2]
    };
    let anywhere = MigrationPlanSpec::default();
    let placed = best(&|| drop(::fleet::plan::plan(&world, &pending, &anywhere)));
    figure("placement of one machine", placed, Duration::from_millis(5));
    let asked = NodeDrainPlanSpec {
        nodes: (0..DRAINED).map(|index| format!("node-{index:03}")).collect(),
        ..NodeDrainPlanSpec::default()
    };
    let plan = ::fleet::drain::plan(&world, &asked);
    if plan.steps.len() != size.machines / size.nodes * DRAINED {
        return Err(format!("{} of the machines move: {:?}", plan.steps.len(), plan.nodes.first()).into());
    }
    figure(
        "plan of a drain of 20 nodes",
        best(&|| drop(::fleet::drain::plan(&world, &asked))),
        Duration::from_millis(100),
    );
    let all = best(&|| drop(decide(&world)));
    output::say!("{:44} {:>9.1} ms", "a look at all objects, with nothing to do", all.as_secs_f64() * 1e3);
    Ok(())
}

fn decide(world: &World) -> Vec<::fleet::Intent> {
    ::fleet::decide(world, &k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::now()))
}

/// Writes each second of the status of instances, by many clients.
async fn status_writes(size: &Size, site: &Site) -> Outcome<f64> {
    let (began, machines) = (Instant::now(), size.machines);
    let mut tasks = Vec::new();
    for writer in 0..WRITERS.0 {
        let client = mirror::connect(&site.kubeconfig()).await?;
        tasks.push(tokio::spawn(async move {
            let mut count = 0_usize;
            while began.elapsed() < WRITERS.1 {
                let index = (writer + count * WRITERS.0) % machines;
                let path = format!("/apis/whimbrel.dev/v1/namespaces/default/virtualmachineinstances/vm-{index:05}/status");
                let status = json!({ "status": { "conditions": [ready(), { "type": "Paused", "status": "False", "reason": format!("N{count}") }] } });
                patch(&client, &path, &status).await?;
                count += 1;
            }
            Ok::<_, String>(count)
        }));
    }
    let mut all = 0;
    for task in tasks {
        all += task.await??;
    }
    Ok(all as f64 / began.elapsed().as_secs_f64())
}

async fn patch(client: &Client, path: &str, patch: &Value) -> Result<(), String> {
    let request = http::Request::patch(path).header("Content-Type", "application/merge-patch+json");
    let request = request.body(patch.to_string().into_bytes()).map_err(|error| error.to_string())?;
    client.request_text(request).await.map(drop).map_err(|error| error.to_string())
}

/// The time from a write until a watcher has it, of all writes and all watchers the 99th percentile.
async fn watch(size: &Size, site: &Site, client: &Client) -> Outcome<Duration> {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    let epoch = *EPOCH.get_or_init(Instant::now);
    let version: Value = serde_json::from_str(&get(client, &format!("{INSTANCES}?limit=1")).await?)?;
    let version = version["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    let waits = Arc::new(Mutex::new(Vec::with_capacity(TOLD.0 * size.watchers)));
    let mut watchers = Vec::new();
    for _ in 0..size.watchers {
        let client = mirror::connect(&site.kubeconfig()).await?;
        let path = format!("{INSTANCES}?watch=1&resourceVersion={version}");
        let request = http::Request::get(path).body(Vec::new())?;
        let waits = waits.clone();
        watchers.push(tokio::spawn(async move {
            let Ok(events) = client.request_stream(request).await else { return };
            let mut lines = events.lines();
            // Only looked for, not parsed: it is the server that is measured.
            while let Some(Ok(line)) = lines.next().await {
                let sent = line.split_once("\"bench\":\"").and_then(|(_, rest)| rest.split_once('"'));
                if let Some(sent) = sent.and_then(|(nanos, _)| nanos.parse().ok()) {
                    waits.lock().push(epoch.elapsed().saturating_sub(Duration::from_nanos(sent)));
                }
            }
        }));
    }
    sleep(Duration::from_secs(5)).await;
    for index in 0..TOLD.0 {
        let path = format!("/apis/whimbrel.dev/v1/namespaces/default/virtualmachineinstances/vm-{index:05}");
        let nanos = epoch.elapsed().as_nanos().to_string();
        patch(client, &path, &json!({ "metadata": { "annotations": { "bench": nanos } } })).await?;
        sleep(TOLD.1).await;
    }
    sleep(Duration::from_secs(1)).await;
    watchers.iter().for_each(tokio::task::JoinHandle::abort);
    let mut waits = std::mem::take(&mut *waits.lock());
    if waits.len() != TOLD.0 * size.watchers {
        return Err(format!("{} of {} writes were heard of", waits.len(), TOLD.0 * size.watchers).into());
    }
    waits.sort();
    Ok(waits[waits.len() * 99 / 100])
}
