//! The agent of a host: it starts the VMMs that shall be here, finds those that are, and says in objects what they say.
//!
//! An agent owns nothing and remembers nothing. Each turn it looks at the objects ([`mirror`]) and at its VMMs (`observe`), decides without
//! I/O what is to be done (`decide`), and does it (`act`). Whatever kills it between two steps, the next one decides from what is there.
//!
//! What a node keeps and does for people is served to the control plane (`serve`).
//!
//! * A VMM is a process in a session of its own (`process`), and a folder (`folder`) whose name the objects say. It outlives its agent.
//! * A machine that runs is ended only where its object is being deleted. What is not known to the objects and runs is left alone, and
//!   said in the log: the objects may be the ones that are wrong.
//! * A folder is started once. Without a process it is a run that has ended.

mod act;
mod arrivals;
mod certificates;
mod decide;
mod folder;
mod heartbeat;
mod kept;
mod observe;
mod places;
mod process;
mod processor;
mod progress;
mod seed;
mod seeds;
mod serve;
mod settings;
mod tap;
mod usage;

use std::{
    net::{IpAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use config::LogFormat;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Api, Client};
use mirror::Mirror;
use objects::{Fleet, VirtualMachineInstance, VirtualMachineInstanceMigration};
use tokio::{runtime::Handle, sync::Notify, time::timeout};

use act::Actor;
use arrivals::Arrivals;
use heartbeat::Heartbeat;
use observe::Observer;
use places::Places;
use serve::Desk;

pub use certificates::condition as certificates_condition;
pub use folder::vmm_folders;
pub use process::running;

/// What an agent is told of its host.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's name, which its certificate has too.
    pub name: String,
    /// The agent's directory. VMMs are in `vmms/`.
    pub directory: PathBuf,
    /// The program `whimbrel-vmm`.
    pub vmm: PathBuf,
    /// The kernel of the workload guest.
    pub workload: PathBuf,
    /// The certificates that migrations are encrypted with.
    pub tls: PathBuf,
    /// Where other nodes reach this one.
    pub address: IpAddr,
    /// Where machines come to this node, if a person at this host has said so. Otherwise at the address above, or at one in the network of migrations,
    /// where the settings of the fleet name one.
    pub migration_address: Option<IpAddr>,
    /// Which part of the host's memory machines may have here, from 0 to 1.
    pub share: f64,
    /// The namespace in which the agent renews its lease.
    pub leases: String,
    /// Who makes the Node.
    pub registration: Registration,
    /// The control group that machines are put into, where they would end with the agent's otherwise: a container's processes end with it.
    pub cgroup: Option<PathBuf>,
    /// How lines of the logs of VMMs are written.
    pub log_format: LogFormat,
}

/// Who makes the Node of a host, and says of it what Kubernetes wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    /// The agent, which is all that there is.
    Agent,
    /// A kubelet. The agent adds what it knows, in fields of its own.
    Kubelet,
}

/// How often an agent looks while nothing happens that it would hear of.
const TICK: Duration = Duration::from_secs(1);
/// How often it looks while a VMM starts or memory moves.
const BUSY_TICK: Duration = Duration::from_millis(20);
/// How long is waited for the settings of the fleet at first. Where agents may not read them, as with manifests of an earlier release, there is no network
/// of migrations that a node could say it is on.
const SETTINGS: Duration = Duration::from_secs(30);

/// Where an agent is come to.
#[derive(Debug, Default)]
pub struct Listeners {
    /// By the control plane; without one nothing is served to it.
    pub control_plane: Option<TcpListener>,
    /// For figures, by anybody.
    pub figures: Option<TcpListener>,
}

/// Works until the process ends. Blocks its thread; `handle` is the runtime on which requests are made, and on which is served.
pub fn run(config: &Config, listeners: Listeners, client: &Client, handle: &Handle) {
    let Listeners { control_plane: listener, figures } = listeners;
    let desk = Arc::new(Desk::new(config));
    let port =
        listener.as_ref().and_then(|listener| listener.local_addr().ok()).map(|address| address.port());
    if let Some(listener) = listener {
        handle.spawn(serve::serve(listener, desk.clone()));
    }
    let changed = Arc::new(Notify::new());
    let (instances, migrations, fleets) = handle.block_on(async {
        let instances: Mirror<VirtualMachineInstance> =
            Mirror::start(Api::all(client.clone()), changed.clone());
        let migrations: Mirror<VirtualMachineInstanceMigration> =
            Mirror::start(Api::all(client.clone()), changed.clone());
        let fleets: Mirror<Fleet> = Mirror::start(Api::all(client.clone()), changed.clone());
        (instances, migrations, fleets)
    });
    if let Some(figures) = figures {
        handle.spawn(serve::serve_figures(figures, desk.clone()));
    }
    let mut heartbeat = Heartbeat::new(config, port, client, handle);
    let mut places = Places::default();
    let mut arrivals = Arrivals::new(config);
    let begun = Instant::now();
    let mut observer = Observer::new(config);
    let mut actor = Actor::new(config, desk.clone(), client, handle);
    let mut tick = TICK;
    loop {
        // Both ends are a reason to look: what changed, and time.
        let _ = handle.block_on(async { timeout(tick, changed.notified()).await });
        if instances.is_there() {
            places.gather(&instances.all());
        }
        let arrival = arrivals.look(&fleets.all()).clone();
        heartbeat.beat(&places, &arrival);
        let is_set = fleets.is_there() || begun.elapsed() >= SETTINGS;
        if !instances.is_there() || !migrations.is_there() || !is_set {
            continue;
        }
        actor.hear(arrival);
        let (instances, migrations) = (instances.all(), migrations.all());
        let vmms = observer.look();
        desk.look(&vmms, &instances);
        let now = Time(jiff::Timestamp::now());
        let here =
            decide::Here { node: &config.name, instances: &instances, migrations: &migrations, vmms: &vmms };
        let plan = decide::decide(&here, &now);
        tick = if plan.is_busy { BUSY_TICK } else { TICK };
        for action in &plan.actions {
            actor.act(action, &mut observer);
        }
    }
}
