use super::{Failure, Outcome, TOO_FEW, TOO_MANY};
use crate::{
    CommandError,
    commands::{self, Context},
    types::{DirtyRateMode, TimeUnit},
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
    let number = |name: &str, text: &str| {
        let wrong = || CommandError::generic(format!("Parameter '{name}' expects a number, not '{text}'"));
        text.parse::<u64>().map_err(|_| wrong())
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
    Ok(text)
}
