//! `whimbrel console-server`: the console of a fleet whose objects a Kubernetes cluster has.

use std::{
    error::Error,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use apiserver::{Gateway, Server, tls_config};
use tokio::{runtime::Builder, time::sleep};

use crate::{log, rig::Interrupt};

/// Serve the console of a fleet on Kubernetes.
///
/// What it asks goes on to the API server as whoever is logged in: this has no rights of its own. People log in with a token of theirs.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where it listens
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8443")]
    listen: SocketAddr,
    /// The API server
    #[arg(long, value_name = "URL", default_value = "https://kubernetes.default.svc")]
    server: String,
    /// The authority that has issued the API server's certificate
    #[arg(long, value_name = "FILE", default_value = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")]
    server_ca: PathBuf,
    /// The directory with server-cert.pem and server-key.pem, which are read again when they change
    #[arg(long, value_name = "DIR")]
    tls: PathBuf,
    #[command(flatten)]
    log: log::Arguments,
}

const LOOK: Duration = Duration::from_millis(100);

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let interrupt = Interrupt::install()?;
    arguments.log.to_stderr();
    let gateway = Gateway::new(pages::FILES, &arguments.server, &arguments.server_ca)?;
    let tls = tls_config(&arguments.tls)?;
    let listener = TcpListener::bind(arguments.listen).map_err(|error| {
        format!("Cannot listen at {} ({error}): say another place with --listen", arguments.listen)
    })?;
    let address = listener.local_addr()?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let server = Server::gateway(listener, tls, gateway)?;
        output::say!("The console is at https://{address}/console/, for objects of {}.", arguments.server);
        let interrupted = async {
            while interrupt.check().is_ok() {
                sleep(LOOK).await;
            }
        };
        tokio::select! {
            () = server.run() => {}
            () = interrupted => {}
        }
        Ok::<_, Box<dyn Error>>(())
    })?;
    Ok(ExitCode::SUCCESS)
}
