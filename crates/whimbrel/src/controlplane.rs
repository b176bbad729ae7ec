//! `whimbrel controlplane`: the control plane of a fleet of many hosts.

use std::{
    error::Error,
    io::{self, IsTerminal},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
};

use crate::{
    log,
    rig::Interrupt,
    up::{ControlPlane, Site, stay},
};

/// Run the control plane of a fleet: store, API and controllers. Hosts join with `whimbrel node`.
///
/// Machines need it for nothing but changes: while it is gone they run, and migrations under way go on.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where its files go [default: .whimbrel in the home directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Where the API listens
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:16443")]
    listen: SocketAddr,
    /// How other hosts call this one: a host name or an address. May be repeated; the first is in the ticket
    #[arg(long = "name", value_name = "HOST")]
    names: Vec<String>,
    #[command(flatten)]
    log: log::Arguments,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    if arguments.listen.ip().is_unspecified() && arguments.names.is_empty() {
        return Err(
            "Say with --name how other hosts call this one, or with --listen at which address it listens"
                .into(),
        );
    }
    let interrupt = Interrupt::install()?;
    let site = Site::at(arguments.dir.as_deref())?;
    let plane =
        ControlPlane::start(&site, arguments.listen, arguments.names.clone(), &[], arguments.log, None)?;
    output::say!(
        "The control plane is up at {}. Its files are in {}.",
        plane.endpoint.listens,
        site.directory().display()
    );
    output::say!("");
    output::say!(
        "On each host, with a copy of {} (a secret: who has it can add nodes):",
        site.ticket().display()
    );
    output::say!("  whimbrel node --name NAME --address IP --join ticket");
    output::say!("");
    output::say!("  export KUBECONFIG={}", site.kubeconfig().display());
    output::say!("  kubectl get nodes");
    output::say!("");
    // A service's output is kept, for others than administrators to read.
    if io::stdout().is_terminal() {
        output::say!("The console, for one login in the next 10 minutes (`whimbrel console` makes another):");
        output::say!("  {}", plane.login);
    } else {
        output::say!("`whimbrel console` makes a login of the console.");
    }
    stay(&site, &plane.endpoint, &[], &interrupt, &plane.threads)?;
    Ok(ExitCode::SUCCESS)
}
