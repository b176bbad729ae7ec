//! The life of the process: build, serve, end.

use std::{sync::Arc, thread};

use config::{Config, Endpoint, Incoming as Where};
use monitor::{BindError, CommandError, Events as MonitorEvents, Server, types::ShutdownCause};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};
use transport::Address;

use crate::{BuildError, Commands, Control, Events, Machine};

/// Why the process could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The machine cannot be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The monitor's socket cannot be used.
    #[error(transparent)]
    Monitor(#[from] BindError),
    /// The place for a migration cannot be prepared.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// Signals cannot be watched, or a thread cannot be started.
    #[error("Cannot start the threads of the process")]
    Threads(#[source] std::io::Error),
}

/// Runs the machine that `config` describes until it ends; answers the exit status of the process.
///
/// # Errors
/// Something that it needs is missing or in use. Nothing has run then.
pub fn run(config: Config) -> Result<u8, ProcessError> {
    // Before any thread is there: all of them leave these signals to one.
    let signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(ProcessError::Threads)?;
    let (machine_events, heard) = Events::channel();
    let machine = match config.incoming() {
        Some(_) => None,
        None => Some(Machine::boot(&config, machine_events.clone())?),
    };
    let events = MonitorEvents::new();
    let (control, end) = Control::new(config.clone(), machine, machine_events, events.clone());
    let server = match config.monitor() {
        Some(socket) => {
            Some(Server::bind(socket.path().as_path(), Arc::new(Commands(control.clone())), events)?)
        }
        None => None,
    };
    watch_signals(signals, control.clone()).map_err(ProcessError::Threads)?;
    let listening = control.clone();
    spawn("events", move || heard.into_iter().for_each(|event| listening.hear(event)))
        .map_err(ProcessError::Threads)?;
    match config.incoming() {
        Some(Where::At(endpoint)) => control.listen(&address(endpoint))?,
        Some(Where::Defer) => {}
        None if config.paused() => {}
        None => control.resume()?,
    }
    // The control keeps the sending end.
    let Ok(ending) = end.recv() else { return Ok(0) };
    tracing::info!("Ending: {:?}", ending.cause);
    control.close(ending.cause);
    if let Some(server) = server {
        server.shutdown();
    }
    Ok(ending.status)
}

/// The first signal ends the process in good order, a second one at once.
fn watch_signals(mut signals: Signals, control: Arc<Control>) -> std::io::Result<()> {
    spawn("signals", move || {
        for (count, signal) in signals.forever().enumerate() {
            if count > 0 {
                std::process::exit(128 + signal);
            }
            control.end(ShutdownCause::HostSignal, 0);
        }
    })
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    thread::Builder::new().name(name.into()).spawn(run).map(|_| ())
}

fn address(endpoint: &Endpoint) -> Address {
    match endpoint {
        Endpoint::Tcp { host, port } => Address::Tcp { host: host.to_string(), port: *port },
        Endpoint::Unix(path) => Address::Unix(path.as_path().to_owned()),
    }
}
