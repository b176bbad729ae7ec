//! `whimbrel proxy`: harm to a migration of the user's own.

use std::{error::Error, io, process::ExitCode, time::Duration};

use faults::{Address, Fault, Processes, Proxy, ProxyError};

use crate::rig::{Interrupt, Interrupted};

/// Harm a migration: listen here, carry every connection to the destination, and do what was asked for on the way.
///
/// Let the destination listen at CONNECT, and migrate to LISTEN. What passes is printed, and what is done.
///
/// A fault is WHAT@CONNECTION:MOMENT, and strikes once.
///
/// WHAT: cut, reset, half-cut, cut-all, reset-all, stall=TIME, stall-all=TIME, black-hole, black-hole-all, delay=TIME, flip=BIT,
/// kill=SIDE, freeze=SIDE:TIME, outage=TIME. TIME is 250ms or 2s; BIT is 0 to 7; SIDE is source or destination.
///
/// CONNECTION: control, ask (a source that asks what became of a session), channel0 and so on, channels, any.
///
/// MOMENT: before:FRAME, after:FRAME, in:FRAME+BYTE, or (to-destination|to-source):(frame|byte|PHASE):N. FRAME is hello, accept, refuse,
/// channels-open, pages, round-end, ping, pong, switchover, last-pages, last-round-end, device, complete, ready, go,
/// running, not-running, ask, unknown-session, bye or abort; the third of a name is device#3. PHASE is handshake, rounds, switchover,
/// hand-over, release or asking.
///
/// Of an encrypted migration these frames are seen: switchover, ready, go, running and bye. All others are hidden, and a fault at
/// one of them does not strike.
///
/// For example: cut@control:before:go, flip=3@channel0:in:pages#2+4100, kill=destination@control:after:ready.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where to listen: tcp:HOST:PORT (port 0 for any that is free) or unix:PATH
    listen: Address,

    /// Where the destination listens
    connect: Address,

    /// What is to go wrong; can be given several times
    #[arg(long = "fault", value_name = "FAULT")]
    faults: Vec<Fault>,

    /// Process of the source, for faults that kill or freeze it
    #[arg(long, value_name = "PID")]
    source: Option<u32>,

    /// Process of the destination, likewise
    #[arg(long, value_name = "PID")]
    destination: Option<u32>,

    /// Use addresses of other hosts too: what the migration does not encrypt can be read on the way
    #[arg(long)]
    insecure: bool,
}

/// Why there is no proxy.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(
        "'{address}' is not on this host, and a migration that is not encrypted would be readable on the network. \
         Use a loopback address or a unix socket, or allow it with --insecure"
    )]
    NotLoopback { address: Address },
    #[error("A fault is to strike the process of the {side}, and it is not known: name it with --{side}")]
    NoProcess { side: faults::Side },
    #[error("A process that is to be harmed cannot be had")]
    Process(#[source] io::Error),
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    #[error("Cannot prepare for Ctrl-C")]
    Interrupt(#[source] io::Error),
}

const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Runs until it is interrupted.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let proxy = start(arguments)?;
    let interrupt = Interrupt::install().map_err(Refusal::Interrupt)?;
    output::say!("Listening at {}", proxy.address());
    let mut told = (0, 0);
    loop {
        let stopped = interrupt.sleep(LOOK_EVERY);
        told = tell(&proxy, told);
        if let Err(Interrupted) = stopped {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

fn start(arguments: &Arguments) -> Result<Proxy, Refusal> {
    for address in [&arguments.listen, &arguments.connect] {
        if !arguments.insecure && !address.is_loopback() {
            return Err(Refusal::NotLoopback { address: address.clone() });
        }
    }
    for (side, process) in
        [(faults::Side::Source, arguments.source), (faults::Side::Destination, arguments.destination)]
    {
        if process.is_none() && arguments.faults.iter().any(|fault| fault.what.victim() == Some(side)) {
            return Err(Refusal::NoProcess { side });
        }
    }
    let processes = Processes::new(arguments.source, arguments.destination).map_err(Refusal::Process)?;
    Ok(Proxy::start(&arguments.listen, arguments.connect.clone(), &arguments.faults, processes)?)
}

/// Prints what is new. Lines that are complete only: the last may yet become one of many.
fn tell(proxy: &Proxy, (passed_before, struck_before): (usize, usize)) -> (usize, usize) {
    let struck = proxy.struck();
    let passed = proxy.trace();
    let mut lines: Vec<_> =
        passed.iter().skip(passed_before).map(|passed| (passed.at, passed.to_string())).collect();
    lines.extend(struck.iter().skip(struck_before).map(|struck| (struck.at, struck.to_string())));
    lines.sort_by_key(|(at, _)| *at);
    lines.iter().for_each(|(_, line)| output::say!("{line}"));
    (passed.len(), struck.len())
}
