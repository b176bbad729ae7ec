//! `whimbrel up`: a fleet on this host, with one command.

mod agents;
mod figures;
mod forecasts;
mod questions;
mod site;

use std::{
    collections::BTreeMap,
    error::Error,
    io::{self, IsTerminal},
    net::{IpAddr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use apiserver::{Api, Identity, Role, Server, tls_config};
use store::{AbortAfter, Limits, Store};
use tokio::runtime::{Builder, Handle};

use crate::{
    log,
    rig::{Interrupt, check_kvm, find_vmm},
};

pub(crate) use site::{Endpoint, NODE_FILES, REVOKED_FILE, Site, kubeconfig, make_private, write_private};

/// Start a fleet on this host: control plane and nodes, driven by kubectl.
///
/// Everything is in one directory. Started again it finds all as it was, machines that run too.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many nodes this host plays
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=8))]
    nodes: u32,
    /// Where the fleet's files go [default: .whimbrel in the home directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Where the API listens; with port 0 at one that is free
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:16443")]
    listen: SocketAddr,
    /// Leave machines running at the end, without asking
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    log: log::Arguments,
    /// Abort right after so many writes of machines and migrations, for tests
    #[arg(long, hide = true, value_name = "N")]
    abort_after: Option<u64>,
    /// The program whimbrel-vmm [default: the one beside this program]
    #[arg(long, value_name = "FILE")]
    vmm: Option<PathBuf>,
}

/// How long machines may take to end.
const END: Duration = Duration::from_secs(30);
/// What `kubectl drain` asks for, having cordoned the node, and is told.
const ABSENT: &[apiserver::Absent] = &[(
    "pods",
    "machines are no pods here: `whimbrel drain NODE` moves them away, as an object of kind NodeDrain does; the node is cordoned",
)];
const LOOK: Duration = Duration::from_millis(100);
/// How often certificates are renewed, which are valid for a year.
const RENEW: Duration = Duration::from_secs(24 * 3600);

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    check_kvm()?;
    let vmm = find_vmm(arguments.vmm.as_deref())?;
    let interrupt = Interrupt::install()?;
    let site = Site::at(arguments.dir.as_deref())?;
    let names: Vec<_> =
        (0..arguments.nodes).map(|index| format!("node-{}", (b'a' + index as u8) as char)).collect();
    let abort = arguments.abort_after.map(|changes| AbortAfter { prefix: "whimbrel.dev/", changes });
    let plane = ControlPlane::start(&site, arguments.listen, Vec::new(), &names, arguments.log, abort)?;
    let mut threads = plane.threads;
    let handle = plane.handle;
    let workload = guests::write_workload(site.directory())?;
    for name in &names {
        let config = node::Config {
            name: name.clone(),
            directory: site.node(name),
            vmm: vmm.clone(),
            workload: workload.clone(),
            tls: site.node_tls(name),
            address: IpAddr::from([127, 0, 0, 1]),
            migration_address: None,
            share: 0.8 / f64::from(arguments.nodes),
            leases: controllers::NODE_LEASES.to_owned(),
            registration: node::Registration::Agent,
            cgroup: None,
            log_format: arguments.log.format,
        };
        let client = handle.block_on(mirror::connect(&site.node_kubeconfig(name)))?;
        let handle = handle.clone();
        let listener = TcpListener::bind((config.address, 0))?;
        let listeners = node::Listeners { control_plane: Some(listener), figures: None };
        let work = move || node::run(&config, listeners, &client, &handle);
        threads.push(thread::Builder::new().name(name.clone()).spawn(work)?);
    }
    greet(&site, &names, &plane.login);
    let outcome = stay(&site, &plane.endpoint, &names, &interrupt, &threads);
    finish(&site, &names, arguments.keep || outcome.is_err());
    outcome.map(|()| ExitCode::SUCCESS)
}

/// Stays up until a signal comes, and renews certificates meanwhile.
pub(crate) fn stay(
    site: &Site,
    endpoint: &Endpoint,
    names: &[String],
    interrupt: &Interrupt,
    threads: &[JoinHandle<()>],
) -> Result<(), Box<dyn Error>> {
    let mut renewed = Instant::now();
    while interrupt.sleep(LOOK).is_ok() {
        if let Some(ended) = threads.iter().find(|thread| thread.is_finished()) {
            let name = ended.thread().name().unwrap_or("a thread").to_owned();
            return Err(format!(
                "{name} has ended, which it should not: {} says more. Machines go on; start this again",
                site.log().display()
            )
            .into());
        }
        if renewed.elapsed() >= RENEW {
            renewed = Instant::now();
            if let Err(error) = site.make(endpoint, names) {
                tracing::warn!(%error, "Certificates were not renewed; it is tried again in {RENEW:?}");
            }
        }
    }
    Ok(())
}

/// The API server and the controllers, on a thread of their own.
pub(crate) struct ControlPlane {
    /// Where the API is.
    pub(crate) endpoint: Endpoint,
    /// Where the console is, with a code that is good for one login.
    pub(crate) login: String,
    /// Where requests to it can be made.
    pub(crate) handle: Handle,
    /// Each ends when something is wrong.
    pub(crate) threads: Vec<JoinHandle<()>>,
}

impl ControlPlane {
    /// Starts it. Other hosts call this one by `names`; `nodes` are on this host.
    pub(crate) fn start(
        site: &Site,
        listen: SocketAddr,
        names: Vec<String>,
        nodes: &[String],
        log: log::Arguments,
        abort: Option<AbortAfter>,
    ) -> Result<Self, Box<dyn Error>> {
        let listener = TcpListener::bind(listen).map_err(|error| {
            format!(
                "Cannot listen at {listen} ({error}): is another fleet up? Say another place with --listen"
            )
        })?;
        let endpoint = Endpoint { listens: listener.local_addr()?, names };
        let tokens = site.make(&endpoint, nodes)?;
        log.to_file(&site.log())?;
        let store = Arc::new(Store::open(&site.store(), Limits::default())?.aborting(abort));
        let figures = Arc::new(figures::Figures::open(&site.counts())?);
        let agents = agents::Agents { tls: site.server_tls(), calls: apiserver::Calls::default() };
        let api = Api::new(store, objects::kinds(), tokens)?
            .with_figures(figures.clone())
            .with_registrar(Arc::new(site.clone()))
            .with_reviewer(Arc::new(questions::Questions { agents: agents.clone() }))
            .with_agents(Arc::new(agents))
            .with_logins(site.login_secret()?.as_bytes())
            .with_pages(pages::FILES)
            .with_absent(ABSENT);
        let path = api.login_path(&Identity { name: "admin".to_owned(), role: Role::Admin })?;
        let login = format!("https://{}{path}", endpoint.local());
        let (handle, server) = serve(listener, site, Arc::new(api))?;
        let threads = vec![server, control(site, figures)?];
        Ok(Self { endpoint, login, handle, threads })
    }
}

fn serve(
    listener: TcpListener,
    site: &Site,
    api: Arc<Api>,
) -> Result<(Handle, JoinHandle<()>), Box<dyn Error>> {
    let tls = tls_config(&site.server_tls())?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let server = {
        let _runtime = runtime.enter();
        Server::new(listener, tls, api)?
    };
    let work = move || runtime.block_on(server.run());
    let thread = thread::Builder::new().name("control-plane".to_owned()).spawn(work)?;
    Ok((handle, thread))
}

/// The controllers, on a thread of their own: what they decide about many machines takes its time, which no client waits for.
fn control(site: &Site, figures: Arc<figures::Figures>) -> Result<JoinHandle<()>, Box<dyn Error>> {
    let kubeconfig = site.kubeconfig();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let work = async move {
        match mirror::connect(&kubeconfig).await {
            Ok(client) => {
                controllers::run(client, controllers::NODE_LEASES, |world| figures.look(world)).await;
            }
            Err(error) => tracing::error!(%error, "There are no controllers"),
        }
    };
    Ok(thread::Builder::new().name("controllers".to_owned()).spawn(move || runtime.block_on(work))?)
}

fn greet(site: &Site, names: &[String], login: &str) {
    output::say!(
        "The fleet is up: nodes {}. Its files are in {}.",
        names.join(" and "),
        site.directory().display()
    );
    output::say!("");
    output::say!("The console, for one login in the next 10 minutes (`whimbrel console` makes another):");
    output::say!("  {login}");
    output::say!("");
    output::say!("In another terminal:");
    output::say!("  export KUBECONFIG={}", site.kubeconfig().display());
    output::say!("  kubectl apply -f examples/busy.yaml");
    output::say!("  kubectl get vmi -w");
    output::say!("  whimbrel migrate busy");
    output::say!("  kubectl get vmim -o wide");
    output::say!("");
    output::say!("Ctrl-C ends it.");
}

/// Ends machines, if that is wanted. In doubt they go on.
fn finish(site: &Site, names: &[String], keep: bool) {
    let machines = processes(site, names);
    if machines.is_empty() {
        return;
    }
    let count = machines.len();
    if !keep && ask(&format!("End {count} running machines too? [y/N] ")) {
        machines.values().for_each(|process| end(*process));
        let deadline = Instant::now() + END;
        while !processes(site, names).is_empty() && Instant::now() < deadline {
            thread::sleep(LOOK);
        }
        let left = processes(site, names).len();
        output::say!("{} machines ended.", count.saturating_sub(left));
    } else {
        output::say!("{count} machines go on. `whimbrel up` with the same directory finds them again.");
    }
}

/// Processes of machines of this fleet.
fn processes(site: &Site, names: &[String]) -> BTreeMap<PathBuf, u32> {
    let is_ours = |path: &Path| names.iter().any(|name| path.starts_with(site.node(name).join("vmms")));
    node::running().into_iter().filter(|(path, _)| is_ours(path)).collect()
}

fn end(process: u32) {
    use rustix::process::{Pid, Signal, kill_process};
    if let Some(process) = i32::try_from(process).ok().and_then(Pid::from_raw) {
        // It may have ended by itself.
        let _ = kill_process(process, Signal::TERM);
    }
}

/// Whether somebody says yes. Nobody does where there is no terminal.
fn ask(question: &str) -> bool {
    if !io::stdin().is_terminal() {
        return false;
    }
    let mut line = String::new();
    output::show(question).is_ok()
        && io::stdin().read_line(&mut line).is_ok()
        && matches!(line.trim(), "y" | "Y" | "yes")
}
