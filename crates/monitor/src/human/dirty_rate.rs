use super::{Failure, Outcome, TOO_FEW, TOO_MANY};
use crate::{
    CommandError,
    commands::{self, Context},
    types::{DirtyLimitInfo, DirtyRateMode, TimeUnit},
};

/// `calc_dirty_rate [-r] [-b] second [sample_pages_per_GB]`.
pub(super) fn calc(context: Context<'_>, arguments: &[&str]) -> Outcome {
    let (options, rest): (Vec<&str>, Vec<&str>) = arguments.iter().partition(|word| word.starts_with('-'));
    let mode = match options[..] {
        [] => DirtyRateMode::PageSampling,
        ["-b"] => DirtyRateMode::DirtyBitmap,
        ["-r"] => DirtyRateMode::DirtyRing,
        _ => return Err(Failure::Usage("one of -r (dirty ring) and -b (dirty bitmap) can be given")),
    };
    let (seconds, pages) = match rest[..] {
        [seconds] => (seconds, None),
        [seconds, pages] => (seconds, Some(number("sample_pages_per_GB", pages)?)),
        [] => return Err(TOO_FEW),
        _ => return Err(TOO_MANY),
    };
    let seconds = number("second", seconds)?;
    let request = commands::dirty_rate_request(seconds.saturating_mul(1000), pages, mode)?;
    context.handler.calc_dirty_rate(request)?;
    Ok(format!(
        "Starting dirty rate measurement with period {seconds} seconds\n[Please use 'info dirty_rate' to check results]\n"
    ))
}

/// `info dirty_rate`.
pub(super) fn info(context: Context<'_>) -> Result<String, CommandError> {
    let info = context.handler.query_dirty_rate().timed_in(TimeUnit::Second);
    let mut text = format!("Status: {}\nStart Time: {} (s)\n", info.status.name(), info.start_time);
    if info.mode == DirtyRateMode::PageSampling {
        text += &format!("Sample Pages: {} (per GB)\n", info.sample_pages);
    }
    text += &format!("Period: {} (sec)\nMode: {}\nDirty rate: ", info.calc_time, info.mode.name());
    text += &info.dirty_rate.map_or_else(|| "(not ready)\n".to_owned(), |rate| format!("{rate} (MB/s)\n"));
    for vcpu in info.vcpu_dirty_rate.iter().flatten() {
        text += &format!("vcpu[{}], Dirty rate: {} (MB/s)\n", vcpu.id, vcpu.dirty_rate);
    }
    Ok(text)
}

/// `set_vcpu_dirty_limit dirty_rate [cpu_index]`.
pub(super) fn set_limit(context: Context<'_>, arguments: &[&str]) -> Outcome {
    let (rate, cpu) = match arguments {
        [rate] => (rate, None),
        [rate, cpu] => (rate, Some(number("cpu_index", cpu)?)),
        [] => return Err(TOO_FEW),
        _ => return Err(TOO_MANY),
    };
    context.handler.set_vcpu_dirty_limit(cpu, number("dirty_rate", rate)?)?;
    Ok("[Please use 'info vcpu_dirty_limit' to see what comes of it]\n".to_owned())
}

/// `cancel_vcpu_dirty_limit [cpu_index]`.
pub(super) fn cancel_limit(context: Context<'_>, arguments: &[&str]) -> Outcome {
    let cpu = match arguments {
        [] => None,
        [cpu] => Some(number("cpu_index", cpu)?),
        _ => return Err(TOO_MANY),
    };
    context.handler.set_vcpu_dirty_limit(cpu, 0)?;
    Ok(String::new())
}

/// `info vcpu_dirty_limit`.
pub(super) fn limits(context: Context<'_>) -> Result<String, CommandError> {
    let limits = context.handler.query_vcpu_dirty_limit();
    if limits.is_empty() {
        return Ok("No vCPU has a limit\n".to_owned());
    }
    let line = |limit: &DirtyLimitInfo| {
        format!(
            "vcpu[{}], limit rate {} (MB/s), current rate {} (MB/s)\n",
            limit.cpu_index, limit.limit_rate, limit.current_rate
        )
    };
    Ok(limits.iter().map(line).collect())
}

fn number(name: &str, text: &str) -> Result<u64, CommandError> {
    let wrong = || CommandError::generic(format!("Parameter '{name}' expects a number, not '{text}'"));
    text.parse().map_err(|_| wrong())
}
