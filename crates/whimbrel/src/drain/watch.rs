use std::{
    error::Error,
    io::{self, IsTerminal},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use kube::{Api, ResourceExt};
use mirror::Mirror;
use objects::{BlockedMachine, DrainPhase, NodeDrain};
use tokio::{sync::Notify, time::timeout};

use crate::{
    drain::{Change, make, show},
    rig::{Interrupt, Span},
};

/// How long a signal may go unnoticed.
const LOOK: Duration = Duration::from_millis(100);

/// Watches a drain until it is over, or until whoever watches has enough of it.
pub(super) async fn watch(drains: &Api<NodeDrain>, name: &str) -> Result<ExitCode, Box<dyn Error>> {
    let interrupt = Interrupt::install()?;
    let changed = Arc::new(Notify::new());
    let mirror = Mirror::start(drains.clone(), changed.clone());
    let began = Instant::now();
    let (mut shown, mut told) = (String::new(), Vec::<BlockedMachine>::new());
    loop {
        let _ = timeout(LOOK, changed.notified()).await;
        if interrupt.check().is_err() {
            return leave(drains, name).await;
        }
        let Some(drain) = mirror.all().into_iter().find(|drain| drain.name_any() == name) else {
            if mirror.is_there() {
                return Err(format!("{name} was deleted, which is to cancel it").into());
            }
            continue;
        };
        let Some(status) = &drain.status else { continue };
        let line = show::line(status);
        if line != shown {
            output::say!("{:>9}  {line}", Span(began.elapsed()).to_string());
            shown = line;
        }
        let is_told = |machine: &BlockedMachine| {
            told.iter().any(|other| {
                (&other.name, &other.namespace, other.reason)
                    == (&machine.name, &machine.namespace, machine.reason)
            })
        };
        let new: Vec<_> =
            status.blocked_machines.iter().filter(|machine| !is_told(machine)).cloned().collect();
        show::blocked(&new);
        told.extend(new);
        if status.phase().is_final() {
            output::say!("{}", show::verdict(status));
            let is_drained = status.phase() == DrainPhase::Succeeded;
            if is_drained {
                output::say!("When you are done: whimbrel uncordon {}", drain.spec.nodes.join(" "));
            }
            return Ok(if is_drained { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
    }
}

/// What becomes of a drain that is not watched any more: it goes on, unless somebody says otherwise.
async fn leave(drains: &Api<NodeDrain>, name: &str) -> Result<ExitCode, Box<dyn Error>> {
    let change =
        match ask(&format!("\n{name} goes on. Leave it, stop it for now, or cancel it? [L/s/c] ")).as_str() {
            "s" | "stop" => Some(Change::Stop),
            "c" | "cancel" => Some(Change::Cancel),
            _ => None,
        };
    match change {
        Some(change) => make(drains, name, change).await?,
        None => output::say!(
            "{name} goes on: kubectl get nodedrain {name}; --stop, --resume and --cancel change it"
        ),
    }
    Ok(ExitCode::FAILURE)
}

/// What somebody says; nothing where there is no terminal.
fn ask(question: &str) -> String {
    let mut line = String::new();
    if io::stdin().is_terminal() && output::show(question).is_ok() {
        // Who cannot be read says nothing.
        let _ = io::stdin().read_line(&mut line);
    }
    line.trim().to_lowercase()
}
