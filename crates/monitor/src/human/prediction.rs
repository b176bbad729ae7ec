use super::{Failure, Outcome, TOO_MANY};
use crate::{
    CommandError,
    commands::{self, Context},
    types::{PredictedMode, PredictionInfo, PredictionStatus},
};

/// `whimbrel_predict [uri|bandwidth]`: a bandwidth with a suffix as `migrate_set_parameter max-bandwidth` takes, but bytes without one.
pub(super) fn predict(context: Context<'_>, arguments: &[&str]) -> Outcome {
    let request = match arguments {
        [] => commands::prediction_request(None, None, None)?,
        // No number has one.
        [uri] if uri.contains(':') => commands::prediction_request(None, Some(uri), None)?,
        [bandwidth] => {
            let bandwidth = commands::parse_size("bandwidth", bandwidth, 1)?;
            commands::prediction_request(Some(bandwidth), None, None)?
        }
        _ => return Err(TOO_MANY),
    };
    let time = request.time;
    context.handler.whimbrel_predict(request).map_err(Failure::from)?;
    Ok(format!(
        "Looking at the machine for {} ms\n[Please use 'info prediction' to see what is foretold]\n",
        time.as_millis()
    ))
}

/// `info prediction`.
pub(super) fn info(context: Context<'_>) -> Result<String, CommandError> {
    Ok(text(&context.handler.query_whimbrel_prediction()))
}

/// What is foretold, as text.
fn text(info: &PredictionInfo) -> String {
    let mut text = format!("Status: {}\n", info.status.name());
    if let Some(why) = &info.error_desc {
        text += &format!("{why}\n");
    }
    let (PredictionStatus::Predicted, Some(machine)) = (info.status, &info.machine) else { return text };
    let mib = |bytes: u64| bytes >> 20;
    text += &format!(
        "Memory: {} MiB, {} MiB of it zero\nWorking set: {} MiB, dirtied at {} MiB/s\n",
        mib(machine.memory),
        mib(machine.empty),
        mib(machine.working_set),
        mib(machine.dirty_rate)
    );
    if machine.packed < 1.0 {
        text += &format!("Packed: to {:.0} %\n", machine.packed * 100.0);
    }
    let known = info.bandwidth_from.map(|from| format!(" ({})", from.told())).unwrap_or_default();
    text += &format!("Bandwidth: {} MB/s{known}\n", info.bandwidth.unwrap_or(0) / 1_000_000);
    text += "mode         total s  downtime ms        MB    CPU s  loss %\n";
    text += &info.modes.iter().map(line).collect::<String>();
    if let Some((choice, reason)) = info.choice.as_ref().zip(info.reason.as_ref()) {
        text += &format!("Would be taken: {choice}. {reason}\n");
    }
    text
}

fn line(mode: &PredictedMode) -> String {
    let note = mode.forbidden.as_ref().map(|why| format!("  ({why})")).unwrap_or_default();
    if !mode.ends {
        return format!("{:<10} does not end{note}\n", mode.mode);
    }
    format!(
        "{:<10} {:>9.1} {:>12.1} {:>9} {:>8.1} {:>7.1}{note}\n",
        mode.mode,
        mode.total_time as f64 / 1e3,
        mode.downtime,
        mode.transferred / 1_000_000,
        mode.cpu_seconds,
        mode.loss
    )
}
