//! `whimbrel controllers`: what decides for a fleet whose objects a Kubernetes cluster has.

mod figures;

use std::{
    cell::Cell,
    error::Error,
    future::pending,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use controllers::{Candidate, lead};
use kube::Client;
use rustix::{
    system::uname,
    time::{ClockId, clock_gettime},
};
use tokio::{runtime::Builder, time::sleep};

use crate::{log, rig::Interrupt};

use figures::Figures;

/// Run the controllers of a fleet on Kubernetes. Of several that run, one decides and the others wait.
///
/// The kinds must be there first: `whimbrel crds | kubectl apply -f -`. Hosts take part with `whimbrel node --kubernetes`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How to reach the cluster [default: as the pod that this runs in]
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// The namespace of the fleet's leases
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE", default_value = "whimbrel")]
    namespace: String,
    /// What this is called in the lease of the leader [default: the host's name]
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    name: Option<String>,
    /// The port where figures are for Prometheus, to whoever comes there and without encryption [default: none]
    #[arg(long, value_name = "PORT")]
    metrics_port: Option<u16>,
    #[command(flatten)]
    log: log::Arguments,
}

/// The lease of the leader.
const LEASE: &str = "whimbrel-controllers";
const LOOK: Duration = Duration::from_millis(100);

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let interrupt = Interrupt::install()?;
    arguments.log.to_stderr();
    let candidate = Candidate {
        namespace: arguments.namespace.clone(),
        name: LEASE.to_owned(),
        identity: identity(arguments.name.as_deref()),
        clock,
    };
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = reach(arguments.kubeconfig.as_deref()).await?;
        let figures = Arc::new(Figures::default());
        if let Some(port) = arguments.metrics_port {
            tokio::spawn(figures::serve(figures.clone(), port));
        }
        let leads = Cell::new(false);
        let work = async {
            leads.set(true);
            tokio::select! {
                () = controllers::run(client.clone(), &arguments.namespace, |world| figures.look(world)) => {}
                // Also where nobody asks for them now: somebody may begin to.
                () = figures.keep(&client, &arguments.namespace) => {}
                () = interrupted(&interrupt) => {}
            }
        };
        // Who leads ends by itself, and gives the lease back.
        let while_waiting = async {
            interrupted(&interrupt).await;
            if leads.get() {
                pending::<()>().await;
            }
        };
        tokio::select! {
            outcome = lead(&client, &candidate, work) => outcome.map_err(Box::<dyn Error>::from),
            () = while_waiting => Ok(()),
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The API of the kubeconfig that was named, or else of the cluster whose pod this is.
pub(crate) async fn reach(kubeconfig: Option<&Path>) -> Result<Client, Box<dyn Error>> {
    match kubeconfig.filter(|path| !path.as_os_str().is_empty()) {
        Some(path) => Ok(mirror::connect(path).await?),
        None => Ok(mirror::connect_in_cluster()?),
    }
}

/// A name that no other process has had: one that starts again is not the one that led.
fn identity(name: Option<&str>) -> String {
    let name = name.map_or_else(|| uname().nodename().to_string_lossy().into_owned(), str::to_owned);
    let mut bytes = [0; 4];
    let mark = match ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes) {
        Ok(()) => u32::from_le_bytes(bytes),
        Err(_) => std::process::id(),
    };
    format!("{name}_{mark:08x}")
}

/// Time since the host was started, while it slept too.
fn clock() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

async fn interrupted(interrupt: &Interrupt) {
    while interrupt.check().is_ok() {
        sleep(LOOK).await;
    }
}
