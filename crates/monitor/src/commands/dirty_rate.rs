use std::time::Duration;

use super::{
    Context, Outcome,
    arguments::{Arguments, not_accepted},
    done, to_value,
};
use crate::{
    CommandError,
    types::{DirtyRateMode, DirtyRateRequest, TimeUnit},
};

pub(super) fn calc_dirty_rate(context: Context<'_>, mut arguments: Arguments) -> Outcome {
    let time = arguments.i64("calc-time")?;
    let unit = time_unit(&mut arguments)?;
    let sample_pages = arguments.optional_u64("sample-pages")?;
    let mode = mode(&mut arguments)?;
    arguments.finish()?;
    let time = u64::try_from(time).unwrap_or(0);
    let milliseconds = match unit {
        TimeUnit::Second => time.saturating_mul(1000),
        TimeUnit::Millisecond => time,
    };
    done(context.handler.calc_dirty_rate(request(milliseconds, sample_pages, mode)?))
}

/// What is asked for, if it is in range.
pub(crate) fn request(
    milliseconds: u64,
    sample_pages: Option<u64>,
    mode: DirtyRateMode,
) -> Result<DirtyRateRequest, CommandError> {
    let out_of_range = |name, range: std::ops::RangeInclusive<u64>| {
        CommandError::generic(format!("{name} is out of range[{}, {}]", range.start(), range.end()))
    };
    if !DirtyRateRequest::CALC_TIME_MS.contains(&milliseconds) {
        return Err(out_of_range("calc-time", DirtyRateRequest::CALC_TIME_MS));
    }
    let pages = sample_pages.unwrap_or(DirtyRateRequest::DEFAULT_SAMPLE_PAGES);
    if !DirtyRateRequest::SAMPLE_PAGES.contains(&pages) {
        return Err(out_of_range("sample-pages", DirtyRateRequest::SAMPLE_PAGES));
    }
    if sample_pages.is_some() && mode != DirtyRateMode::PageSampling {
        return Err(CommandError::generic(format!(
            "sample-pages is of the mode page-sampling: leave it out with {}",
            mode.name()
        )));
    }
    Ok(DirtyRateRequest { calc_time: Duration::from_millis(milliseconds), sample_pages: pages, mode })
}

pub(super) fn query_dirty_rate(context: Context<'_>, mut arguments: Arguments) -> Outcome {
    let unit = time_unit(&mut arguments)?;
    arguments.finish()?;
    to_value(&context.handler.query_dirty_rate().timed_in(unit))
}

pub(super) fn set_vcpu_dirty_limit(context: Context<'_>, mut arguments: Arguments) -> Outcome {
    let cpu = arguments.optional_u64("cpu-index")?;
    let rate = arguments.u64("dirty-rate")?;
    arguments.finish()?;
    done(context.handler.set_vcpu_dirty_limit(cpu, rate))
}

pub(super) fn cancel_vcpu_dirty_limit(context: Context<'_>, mut arguments: Arguments) -> Outcome {
    let cpu = arguments.optional_u64("cpu-index")?;
    arguments.finish()?;
    done(context.handler.set_vcpu_dirty_limit(cpu, 0))
}

fn time_unit(arguments: &mut Arguments) -> Result<TimeUnit, CommandError> {
    const NAME: &str = "calc-time-unit";
    match arguments.optional_string(NAME)?.as_deref() {
        None | Some("second") => Ok(TimeUnit::Second),
        Some("millisecond") => Ok(TimeUnit::Millisecond),
        Some(other) => Err(not_accepted(NAME, other)),
    }
}

fn mode(arguments: &mut Arguments) -> Result<DirtyRateMode, CommandError> {
    let Some(name) = arguments.optional_string("mode")? else { return Ok(DirtyRateMode::default()) };
    let known = DirtyRateMode::ALL.into_iter().find(|(known, _)| *known == name);
    known.map(|(_, mode)| mode).ok_or_else(|| not_accepted("mode", &name))
}
