//! How a machine is told to move in a mode, by either contender.

use comparison::{Contender, Mode};
use serde_json::{Value, json};

use crate::rig::{Machine, MachineError};

/// Sets one end up. QEMU has only what it is told; ours has its defaults, which are not touched in its default mode.
pub(super) fn set_up(
    mode: Mode,
    contender: Contender,
    downtime_limit_ms: u64,
    machine: &mut Machine,
) -> Result<(), MachineError> {
    let capabilities: Vec<_> = capabilities(mode, contender)
        .into_iter()
        .map(|(name, state)| json!({ "capability": name, "state": state }))
        .collect();
    machine.execute("migrate-set-capabilities", json!({ "capabilities": capabilities }))?;
    machine.execute("migrate-set-parameters", parameters(mode, contender, downtime_limit_ms))?;
    Ok(())
}

fn capabilities(mode: Mode, contender: Contender) -> Vec<(&'static str, bool)> {
    let mut capabilities = vec![("events", true)];
    let postcopy = mode.is_postcopy();
    match contender {
        Contender::Whimbrel if mode == Mode::Default => {}
        // Pages that are asked for have a channel of their own anyway.
        Contender::Whimbrel => capabilities.push(("postcopy-ram", postcopy)),
        Contender::Qemu => {
            capabilities.push(("multifd", matches!(mode, Mode::Multifd | Mode::MultifdTls)));
            if postcopy {
                capabilities.extend([("postcopy-ram", true), ("postcopy-preempt", true)]);
            }
        }
    }
    capabilities
}

fn parameters(mode: Mode, contender: Contender, downtime_limit_ms: u64) -> Value {
    // The link is the limit, not a number.
    let mut parameters = json!({ "max-bandwidth": 0, "downtime-limit": downtime_limit_ms });
    match (mode, contender) {
        (Mode::Multifd | Mode::MultifdTls, _) => parameters["multifd-channels"] = Mode::CHANNELS.into(),
        (Mode::Generic, Contender::Whimbrel) => parameters["multifd-channels"] = 1.into(),
        (Mode::PostcopyPreempt, Contender::Whimbrel) => {
            parameters["whimbrel-postcopy"] = "immediate".into();
            parameters["max-postcopy-bandwidth"] = 0.into();
        }
        (Mode::PostcopyPreempt, Contender::Qemu) => parameters["max-postcopy-bandwidth"] = 0.into(),
        (Mode::Generic | Mode::Default, _) => {}
    }
    parameters
}
