//! The life of the process: build, serve, end.
//!
//! # Exit status
//!
//! | status | meaning |
//! |---|---|
//! | 0 | the guest switched itself off, or the process was told to end: `quit`, SIGINT, SIGTERM, SIGHUP, SIGQUIT |
//! | 1 | it could not start, the command line included, or the machine failed and there is no monitor to look at it; standard error says why |
//! | 101 | the main thread panicked, which is a defect |
//! | 128 + signal | a second signal came before the end that the first asked for, or one came before the machine was built; sockets may be left behind |
//! | 159 | a thread made a system call that its filter forbids, see the module `seccomp` |
//!
//! At every other end than by a second signal, a crash or SIGKILL, disks are flushed, sockets are removed and the terminal is as
//! it was. Sockets that are left behind are replaced by the next process.

use std::{
    io::{self, Write as _},
    sync::{Arc, OnceLock, mpsc::Receiver},
    thread,
    time::Duration,
};

use config::{Config, Incoming as Where};
use monitor::{BindError, CommandError, Events as MonitorEvents, Server, types::ShutdownCause};
use output::Log;
use signal_hook::{
    consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM},
    iterator::Signals,
};
use vmm_sys_util::signal::{Error as SignalError, block_signal, unblock_signal};

use crate::{
    Awaited, BuildError, Commands, Control, ControlError, Ending, Events, Machine, MachineEvent, PageFaults,
    SeccompError,
    machine::{OPENING, Sight},
    panics,
    seccomp::{self, Role},
    terminal::{self, Terminal},
};

/// Why the process could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The process cannot be confined.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    /// The machine cannot be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// Nothing can control the machine, or reports cannot be written.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The monitor's socket cannot be used.
    #[error(transparent)]
    Monitor(#[from] BindError),
    /// The place for a migration cannot be prepared, or the machine cannot run.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The terminal cannot be prepared for the guest.
    #[error("The terminal cannot be prepared for the serial port: put the port elsewhere (--serial)")]
    Terminal(#[source] io::Error),
    /// Signals cannot be watched, or a thread cannot be started.
    #[error(
        "Cannot start the threads of the process: raise the limits of processes and open files (ulimit -u, -n)"
    )]
    Threads(#[source] io::Error),
}

/// How long the end of the process waits for a reader of the log that does not read.
const LAST_LINES: Duration = Duration::from_millis(200);

/// Signals that end the process, and the one that tells that it was stopped.
const WATCHED: [i32; 5] = [SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM];

/// Runs the machine that `config` describes until it ends; answers the exit status of the process.
///
/// # Errors
/// Something that it needs is missing or in use. Nothing has run then.
pub fn run(config: &Config) -> Result<u8, ProcessError> {
    // Before any thread is there: all of them are confined, and leave these signals to one.
    panics::install_hook(config.seccomp());
    // What a destination needs of it must be had before, and what it may do found out.
    let page_faults = config.incoming().map(|_| PageFaults::of(config.userfaultfd()));
    seccomp::switch_on(config.seccomp())?;
    let signals = Signals::new(WATCHED).map_err(ProcessError::Threads)?;
    for signal in WATCHED {
        match block_signal(signal) {
            // Whoever started this process may have blocked it.
            Ok(()) | Err(SignalError::SignalAlreadyBlocked(_)) => {}
            Err(error) => return Err(ProcessError::Threads(io::Error::other(format!("{error:?}")))),
        }
    }
    Log::start(|| Ok(seccomp::enter(Role::Log)?)).map_err(ProcessError::Threads)?;
    let watch = watch_signals(signals)?;
    let (machine_events, heard) = Events::channel();
    let machine = match page_faults {
        Some(page_faults) => Awaited::prepare(config, page_faults, machine_events.clone())?.into(),
        None => Machine::boot(config, machine_events.clone())?.into(),
    };
    let events = MonitorEvents::new();
    let (control, end) = Control::new(config.clone(), machine, machine_events, events.clone())?;
    // From here on there is something to end in good order.
    let _ = watch.set(control.clone());
    // Dropped last, when nothing is printed any more.
    let _terminal = Terminal::prepare(config.serial()).map_err(ProcessError::Terminal)?;
    let mut server = None;
    let ending = serve(config, &control, (events, &mut server), (heard, &end));
    // However that ended: threads share the machine, so that it does not go by itself. Clients hear of it before they go.
    control.close(ending.as_ref().map_or(ShutdownCause::HostError, |ending| ending.cause));
    drop(server);
    Ok(ending?.status)
}

/// Waits until the log is written, but not for ever: its reader may not read.
pub fn last_lines() {
    Log::finish(LAST_LINES);
}

/// Says why the process could not start, or had to end, and with that everything that it has said before.
pub fn last_words(error: &(dyn std::error::Error + 'static)) {
    // Like a line of the log: where nobody reads it, it is lost.
    let _ = Log.write_all(format!("whimbrel-vmm: {}\n", engine::chain(error).trim_end()).as_bytes());
    last_lines();
}

/// Answers the monitor and lets the machine run until the process is to end.
fn serve(
    config: &Config,
    control: &Arc<Control>,
    (events, server): (MonitorEvents, &mut Option<Server>),
    (heard, end): (Receiver<MachineEvent>, &Receiver<Ending>),
) -> Result<Ending, ProcessError> {
    if let Some(socket) = config.monitor() {
        let (path, commands) = (socket.path().as_path(), Arc::new(Commands(control.clone())));
        let (own, confine) = (path.to_owned(), || Ok(seccomp::enter(Role::Monitor)?));
        let bound =
            Sight::default().open(OPENING, move |_| Server::bind_confined(&own, commands, events, confine));
        let unbound = |source| BindError::Io { path: path.to_owned(), source };
        *server = Some(bound.map_err(|shut| unbound(shut.into()))??);
    }
    let listening = control.clone();
    spawn(Role::Events, "events", move || heard.into_iter().for_each(|event| listening.hear(event)))?;
    match config.incoming() {
        Some(Where::At(address)) => control.listen(address)?,
        Some(Where::Defer) => {}
        None if config.paused() => {}
        None => control.resume()?,
    }
    // The control keeps the sending end.
    let ending = end.recv().unwrap_or(Ending { cause: ShutdownCause::HostError, status: 1 });
    tracing::info!("Ending: {:?}", ending.cause);
    Ok(ending)
}

/// The first signal ends the process in good order, as soon as the control is known that can do so; before, and at a second
/// signal, it ends at once.
fn watch_signals(mut signals: Signals) -> Result<Arc<OnceLock<Arc<Control>>>, ProcessError> {
    let watch = Arc::new(OnceLock::<Arc<Control>>::new());
    let known = watch.clone();
    spawn(Role::Signals, "signals", move || {
        // All other threads leave them to this one: what their handler does is more than others may do.
        for signal in WATCHED {
            if let Err(error) = unblock_signal(signal) {
                tracing::error!("Signal {signal} will not be noticed: {error:?}");
            }
        }
        let mut ending = false;
        for signal in signals.forever() {
            match known.get() {
                _ if signal == SIGCONT => terminal::resume(),
                Some(control) if !ending => {
                    ending = true;
                    if let Err(refused) = control.ask_to_end(ShutdownCause::HostSignal) {
                        tracing::error!("{refused}. A second signal ends it all the same");
                    }
                }
                _ => {
                    terminal::restore();
                    last_lines();
                    std::process::exit(128 + signal);
                }
            }
        }
    })?;
    Ok(watch)
}

/// Starts a thread, and waits until it is confined.
fn spawn(role: Role, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), ProcessError> {
    let (confined, outcome) = std::sync::mpsc::channel();
    let body = move || {
        let entered = seccomp::enter(role);
        let go = entered.is_ok();
        // The other end waits for this.
        let _ = confined.send(entered);
        if go {
            run();
        }
    };
    thread::Builder::new().name(name.into()).spawn(body).map_err(ProcessError::Threads)?;
    let died = || ProcessError::Threads(io::Error::other("a thread ended before it began"));
    Ok(outcome.recv().map_err(|_| died())??)
}
