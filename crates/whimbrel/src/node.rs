//! `whimbrel node`: this host as a node of a fleet.

use std::{
    error::Error,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use kube::Client;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Handle};

use crate::{
    rig::{Interrupt, check_kvm, find_vmm},
    up::{NODE_FILES, kubeconfig, log_to, make_private, write_private},
};

/// Run the agent of this host, which starts machines and says how they are. The first time with `--join`.
///
/// Machines outlive it: started again with the same directory, it finds them.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The node's name; said when it joins
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The address at which other nodes reach this host; said when it joins
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
    /// Join the fleet of this ticket, which `whimbrel controlplane` made
    #[arg(long, value_name = "FILE")]
    join: Option<PathBuf>,
    /// Where its files go, with at most 47 bytes
    #[arg(long, value_name = "DIR", default_value = "/var/lib/whimbrel")]
    dir: PathBuf,
    /// The program whimbrel-vmm [default: the one beside this program]
    #[arg(long, value_name = "FILE")]
    vmm: Option<PathBuf>,
}

/// Sockets of monitors are below the directory, whose paths may have 107 bytes.
const MAX_PATH: usize = 47;
/// Which part of the host's memory machines may have.
const SHARE: f64 = 0.9;
const LOOK: Duration = Duration::from_millis(100);
/// How often certificates are renewed, which are valid for a year.
const RENEW: Duration = Duration::from_secs(24 * 3600);

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
    log_to(&directory.join("whimbrel.log"))?;
    let (handle, requests) = requests()?;
    let member = match (&arguments.join, Member::read(&directory)) {
        (_, Some(member)) => member,
        (Some(ticket), None) => handle.block_on(join(arguments, ticket, &directory))?,
        (None, None) => {
            return Err(format!(
                "{} has not joined a fleet: use --join TICKET --name NAME --address IP",
                directory.display()
            )
            .into());
        }
    };
    let client = handle.block_on(mirror::connect(&directory.join("kubeconfig")))?;
    let config = node::Config {
        name: member.name.clone(),
        directory: directory.clone(),
        vmm,
        workload: guests::write_workload(&directory)?,
        tls: directory.join("tls"),
        address: member.address,
        share: SHARE,
    };
    let agent = {
        let (client, handle) = (client.clone(), handle.clone());
        thread::Builder::new().name("agent".to_owned()).spawn(move || node::run(&config, &client, &handle))?
    };
    output::say!("Node {} is up. Its files are in {}.", member.name, directory.display());
    let mut renewed = Instant::now();
    while interrupt.sleep(LOOK).is_ok() {
        if agent.is_finished() || requests.is_finished() {
            return Err(format!(
                "The agent has ended, which it should not: {} says more",
                directory.join("whimbrel.log").display()
            )
            .into());
        }
        if renewed.elapsed() >= RENEW {
            renewed = Instant::now();
            if let Err(error) = handle.block_on(renew(&client, &member, &directory)) {
                tracing::warn!(%error, "Certificates were not renewed; it is tried again in {RENEW:?}");
            }
        }
    }
    // Machines go on.
    Ok(ExitCode::SUCCESS)
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
    Ok(())
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
