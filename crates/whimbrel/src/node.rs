//! `whimbrel node`: this host as a node of a fleet.

use std::{
    error::Error,
    fs,
    net::{IpAddr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::ExitCode,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use kube::Client;
use node::Registration;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Handle};

use crate::{
    controllers::reach,
    log,
    rig::{Interrupt, check_kvm, find_vmm},
    up::{NODE_FILES, REVOKED_FILE, kubeconfig, make_private, write_private},
};

/// Run the agent of this host, which starts machines and says how they are. The first time with `--join`.
///
/// Machines outlive it: started again with the same directory, it finds them.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The node's name; said when it joins. On Kubernetes the name of its Node
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    name: Option<String>,
    /// The address at which other nodes reach this host; said when it joins
    #[arg(long, value_name = "IP", env = "NODE_ADDRESS")]
    address: Option<IpAddr>,
    /// The address of this host at which machines come here, on a network of their own [default: that of --address]
    #[arg(long, value_name = "IP", env = "MIGRATION_ADDRESS", value_parser = own_address)]
    migration_address: Option<IpAddr>,
    /// The port at which the control plane reaches this agent; 0 for one that is free
    #[arg(long, value_name = "PORT", default_value_t = 16444)]
    port: u16,
    /// The port of the node's address where the agent's figures are for Prometheus, to whoever comes there and without encryption [default:
    /// through the control plane alone]
    #[arg(long, value_name = "PORT")]
    metrics_port: Option<u16>,
    /// Join the fleet of this ticket, which `whimbrel controlplane` made
    #[arg(long, value_name = "FILE")]
    join: Option<PathBuf>,
    /// Where its files go, with at most 47 bytes
    #[arg(long, value_name = "DIR", default_value = "/var/lib/whimbrel")]
    dir: PathBuf,
    /// The program whimbrel-vmm [default: the one beside this program]
    #[arg(long, value_name = "FILE")]
    vmm: Option<PathBuf>,
    /// This host is a node of a Kubernetes cluster, whose Node a kubelet makes; there is nothing to join
    #[arg(long, conflicts_with = "join", requires = "name", requires = "address")]
    kubernetes: bool,
    /// How to reach the cluster [default: as the pod that this runs in]
    #[arg(long, value_name = "FILE", requires = "kubernetes")]
    kubeconfig: Option<PathBuf>,
    /// The certificates that migrations are encrypted with, of an authority that all nodes have, as `whimbrel ca issue` makes them for a name
    /// and an address [default: tls in the directory of --dir]
    #[arg(long, value_name = "DIR", requires = "kubernetes")]
    tls: Option<PathBuf>,
    /// The control group (a directory) that machines are put into, so that they do not end with the container that this runs in
    #[arg(long, value_name = "DIR")]
    cgroup: Option<PathBuf>,
    /// The namespace of the fleet's leases, on Kubernetes
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE", default_value = "whimbrel")]
    namespace: String,
    #[command(flatten)]
    log: log::Arguments,
}

/// Sockets of monitors are below the directory, whose paths may have 107 bytes.
const MAX_PATH: usize = 47;
/// Which part of the host's memory machines may have.
const SHARE: f64 = 0.9;
const LOOK: Duration = Duration::from_millis(100);
/// How often certificates are renewed, which are valid for a year.
const RENEW: Duration = Duration::from_secs(24 * 3600);

/// An address that this host has: a migration to another would end in a VMM that cannot listen.
fn own_address(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text.parse().map_err(|error| format!("{error}"))?;
    if address.is_unspecified() {
        return Err("say one address: other nodes have to reach it".to_owned());
    }
    let listener = TcpListener::bind((address, 0));
    listener.map(|_| address).map_err(|error| format!("this host cannot listen there: {error}"))
}

/// How often is asked which certificates were taken back.
const HEAR: Duration = Duration::from_secs(30);

/// Who this node is: kept beside its certificates.
struct Member {
    name: String,
    address: IpAddr,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    check_kvm()?;
    let vmm = find_vmm(arguments.vmm.as_deref())?;
    let interrupt = Interrupt::install()?;
    let directory = std::path::absolute(&arguments.dir)?;
    if directory.as_os_str().len() > MAX_PATH {
        return Err(format!("{} is too long, since sockets are below it", directory.display()).into());
    }
    make_private(&directory)?;
    let _lock = lock(&directory)?;
    let (handle, requests) = requests()?;
    let place = if arguments.kubernetes {
        arguments.log.to_stderr();
        handle.block_on(in_cluster(arguments, &directory))?
    } else {
        arguments.log.to_file(&directory.join("whimbrel.log"))?;
        handle.block_on(in_fleet(arguments, &directory))?
    };
    let config = node::Config {
        name: place.member.name.clone(),
        directory: directory.clone(),
        vmm,
        workload: guests::write_workload(&directory)?,
        tls: place.tls.clone(),
        address: place.member.address,
        migration_address: arguments.migration_address,
        share: SHARE,
        leases: place.leases.clone(),
        registration: place.registration,
        cgroup: arguments.cgroup.clone(),
        log_format: arguments.log.format,
    };
    let listeners = listen(arguments, &place);
    let agent = {
        let (client, handle) = (place.client.clone(), handle.clone());
        let work = move || node::run(&config, listeners, &client, &handle);
        thread::Builder::new().name("agent".to_owned()).spawn(work)?
    };
    output::say!("Node {} is up. Its files are in {}.", place.member.name, directory.display());
    let (mut renewed, mut heard) = (Instant::now(), None::<Instant>);
    while interrupt.sleep(LOOK).is_ok() {
        if agent.is_finished() || requests.is_finished() {
            return Err("The agent has ended, which it should not: its log says more".into());
        }
        // On Kubernetes somebody else renews them, where they came from.
        if place.registration == Registration::Agent && renewed.elapsed() >= RENEW {
            renewed = Instant::now();
            if let Err(error) = handle.block_on(renew(&place.client, &place.member, &directory)) {
                tracing::warn!(%error, "Certificates were not renewed; it is tried again in {RENEW:?}");
            }
        }
        if place.registration == Registration::Agent && heard.is_none_or(|heard| heard.elapsed() >= HEAR) {
            heard = Some(Instant::now());
            if let Err(error) = handle.block_on(hear_of_revoked(&place.client, &place.member, &directory)) {
                tracing::warn!(%error, "It is not known which certificates were taken back; it is asked again in {HEAR:?}");
            }
        }
    }
    // Machines go on.
    Ok(ExitCode::SUCCESS)
}

/// Where this agent is come to. A server of Kubernetes comes to none. A port that is taken is no reason not to look after machines.
fn listen(arguments: &Arguments, place: &Place) -> node::Listeners {
    let at = |port: u16, option: &str, lost: &str| {
        let address = SocketAddr::new(place.member.address, port);
        let listener = TcpListener::bind(address);
        let told = listener.inspect_err(|error| {
            tracing::error!(%error, "Cannot listen at {address}: {lost} are not to be had. Say another port with {option}");
        });
        told.ok()
    };
    let is_ours = place.registration == Registration::Agent;
    let served = "logs, consoles, reports and forecasts of this node";
    node::Listeners {
        control_plane: is_ours.then(|| at(arguments.port, "--port", served)).flatten(),
        figures: arguments.metrics_port.and_then(|port| at(port, "--metrics-port", "figures of this agent")),
    }
}

/// Keeps other agents out of a directory while this one lives: two of them would start the same machine.
fn lock(directory: &Path) -> Result<fs::File, Box<dyn Error>> {
    let path = directory.join("lock");
    let file = fs::File::create(&path).map_err(|error| format!("Cannot make {}: {error}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => {
            Err(format!("Another agent works in {}: end it first", directory.display()).into())
        }
        Err(fs::TryLockError::Error(error)) => Err(format!("Cannot lock {}: {error}", path.display()).into()),
    }
}

/// Where a node belongs.
struct Place {
    client: Client,
    member: Member,
    tls: PathBuf,
    leases: String,
    registration: Registration,
}

/// A node of a fleet of ours.
async fn in_fleet(arguments: &Arguments, directory: &Path) -> Result<Place, Box<dyn Error>> {
    let member = match (&arguments.join, Member::read(directory)) {
        (_, Some(member)) => member,
        (Some(ticket), None) => join(arguments, ticket, directory).await?,
        (None, None) => {
            return Err(format!(
                "{} has not joined a fleet: use --join TICKET --name NAME --address IP",
                directory.display()
            )
            .into());
        }
    };
    Ok(Place {
        client: mirror::connect(&directory.join("kubeconfig")).await?,
        member,
        tls: directory.join("tls"),
        leases: controllers::NODE_LEASES.to_owned(),
        registration: Registration::Agent,
    })
}

/// A node of a Kubernetes cluster.
async fn in_cluster(arguments: &Arguments, directory: &Path) -> Result<Place, Box<dyn Error>> {
    let (Some(name), Some(address)) = (&arguments.name, arguments.address) else {
        return Err("On Kubernetes, say --name NAME and --address IP too".into());
    };
    let tls = arguments.tls.clone().unwrap_or_else(|| directory.join("tls"));
    if let Some(missing) = NODE_FILES.iter().map(|name| tls.join(name)).find(|path| !path.is_file()) {
        return Err(format!(
            "There is no {}: migrations are encrypted, and this node has no certificate (`whimbrel ca issue {name},{address}` makes one)",
            missing.display()
        )
        .into());
    }
    Ok(Place {
        client: reach(arguments.kubeconfig.as_deref()).await?,
        member: Member { name: name.clone(), address },
        tls: std::path::absolute(tls)?,
        leases: arguments.namespace.clone(),
        registration: Registration::Kubelet,
    })
}

/// A thread on which requests are made.
fn requests() -> Result<(Handle, JoinHandle<()>), Box<dyn Error>> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let work = move || runtime.block_on(std::future::pending());
    Ok((handle, thread::Builder::new().name("requests".to_owned()).spawn(work)?))
}

/// Becomes a node of the fleet that a ticket names.
async fn join(arguments: &Arguments, ticket: &Path, directory: &Path) -> Result<Member, Box<dyn Error>> {
    let (Some(name), Some(address)) = (&arguments.name, arguments.address) else {
        return Err("To join, say --name NAME and --address IP too".into());
    };
    let member = Member { name: name.clone(), address };
    let client = mirror::connect(ticket).await?;
    let given = mirror::post(&client, "/join", &member.asks()).await?;
    keep(&given, directory)?;
    let text =
        fs::read_to_string(ticket).map_err(|error| format!("Cannot read {}: {error}", ticket.display()))?;
    let ticket: Value = serde_saphyr::from_str(&text)?;
    let server = ticket["clusters"][0]["cluster"]["server"].as_str().unwrap_or_default();
    let server = server.strip_prefix("https://").ok_or("The ticket names no server")?;
    let authority = fs::read(directory.join("tls/ca-cert.pem"))?;
    let token = given["token"].as_str().ok_or("The control plane gave no token")?;
    write_private(&directory.join("kubeconfig"), &kubeconfig(server, &authority, name, token))?;
    // Last: with this it has joined.
    write_private(&directory.join("node"), &member.asks().to_string())?;
    Ok(member)
}

async fn renew(client: &Client, member: &Member, directory: &Path) -> Result<(), Box<dyn Error>> {
    keep(&mirror::post(client, "/join", &member.asks()).await?, directory)
}

/// Writes what a node was given.
fn keep(given: &Value, directory: &Path) -> Result<(), Box<dyn Error>> {
    let folder = directory.join("tls");
    make_private(&folder)?;
    for name in NODE_FILES {
        let text =
            given["files"][*name].as_str().ok_or_else(|| format!("The control plane gave no {name}"))?;
        write_private(&folder.join(name), text)?;
    }
    keep_revoked(&given["files"][REVOKED_FILE], directory)
}

/// Asks which certificates were taken back, and keeps the list where migrations find it.
async fn hear_of_revoked(client: &Client, member: &Member, directory: &Path) -> Result<(), Box<dyn Error>> {
    let asked = json!({ "name": member.name, "revoked": true });
    keep_revoked(&mirror::post(client, "/join", &asked).await?["revoked"], directory)
}

fn keep_revoked(list: &Value, directory: &Path) -> Result<(), Box<dyn Error>> {
    let path = directory.join("tls").join(REVOKED_FILE);
    match list.as_str() {
        Some(text) if fs::read_to_string(&path).ok().as_deref() != Some(text) => {
            Ok(write_private(&path, text)?)
        }
        _ => Ok(()),
    }
}

impl Member {
    fn asks(&self) -> Value {
        json!({ "name": self.name, "addresses": [self.address.to_string()] })
    }

    /// Who this node is, if it has joined.
    fn read(directory: &Path) -> Option<Self> {
        let text = fs::read_to_string(directory.join("node")).ok()?;
        let kept: Value = serde_json::from_str(&text).ok()?;
        let address = kept["addresses"][0].as_str()?.parse().ok()?;
        Some(Self { name: kept["name"].as_str()?.to_owned(), address })
    }
}
