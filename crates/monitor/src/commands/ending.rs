//! Parameters of how a migration comes to its end.

use std::ops::RangeInclusive;

use super::arguments::{Arguments, in_range, not_accepted};
use crate::{
    CommandError,
    types::{EndChange, EndParameters, MAX_DEADLINE_SECONDS, ThrottleWay},
};

/// Their names, as they are set.
pub(crate) const NAMES: [&str; 11] = [
    "throttle-trigger-threshold",
    "cpu-throttle-initial",
    "cpu-throttle-increment",
    "cpu-throttle-tailslow",
    "max-cpu-throttle",
    "vcpu-dirty-limit",
    "x-vcpu-dirty-limit-period",
    "whimbrel-throttle",
    "whimbrel-deadline",
    "whimbrel-means",
    "whimbrel-downtime-max",
];

/// MiB in a second; more have no number in bytes.
const MAX_DIRTY_LIMIT: u64 = u64::MAX >> 20;
/// Milliseconds that a downtime limit may be, as for `downtime-limit`.
const DOWNTIME_MS: RangeInclusive<u64> = 0..=2_000_000;

pub(super) fn take(arguments: &mut Arguments) -> Result<EndChange, CommandError> {
    let whimbrel_throttle = match arguments.optional_string("whimbrel-throttle")? {
        None => None,
        Some(name) => {
            let way = ThrottleWay::from_name(&name);
            Some(way.ok_or_else(|| {
                CommandError::generic(format!(
                    "Parameter 'whimbrel-throttle' expects 'computed' or 'steps', not '{name}'"
                ))
            })?)
        }
    };
    let whimbrel_means = arguments.optional_string("whimbrel-means")?;
    if let Some(text) = whimbrel_means.as_deref().filter(|text| !EndParameters::are_means(text)) {
        return Err(CommandError::generic(format!(
            "Parameter 'whimbrel-means' expects 'downtime', 'throttle' and 'postcopy', each once at most, in the order in which they \
             are to be used and with commas between them, or 'none'; not '{text}'"
        )));
    }
    let cpu_throttle_tailslow = arguments.optional_bool("cpu-throttle-tailslow")?;
    let mut number = |name: &str, range: RangeInclusive<u64>| match arguments.optional_u64(name)? {
        Some(value) => in_range(name, value, range).map(Some),
        None => Ok(None),
    };
    let percent = |value: Option<u64>| value.and_then(|value| u8::try_from(value).ok());
    Ok(EndChange {
        throttle_trigger_threshold: percent(number("throttle-trigger-threshold", 1..=100)?),
        cpu_throttle_initial: percent(number("cpu-throttle-initial", 1..=99)?),
        cpu_throttle_increment: percent(number("cpu-throttle-increment", 1..=99)?),
        cpu_throttle_tailslow,
        max_cpu_throttle: percent(number("max-cpu-throttle", 1..=99)?),
        vcpu_dirty_limit: number("vcpu-dirty-limit", 1..=MAX_DIRTY_LIMIT)?,
        x_vcpu_dirty_limit_period: number("x-vcpu-dirty-limit-period", 1..=1000)?,
        whimbrel_throttle,
        whimbrel_deadline: number("whimbrel-deadline", 0..=MAX_DEADLINE_SECONDS)?,
        whimbrel_means,
        whimbrel_downtime_max: number("whimbrel-downtime-max", DOWNTIME_MS)?,
    })
}

/// The value of one that is given as text and is no number.
pub(super) fn word(name: &str, value: &str) -> Option<Result<serde_json::Value, CommandError>> {
    match (name, value) {
        ("whimbrel-throttle" | "whimbrel-means", text) => Some(Ok(text.into())),
        ("cpu-throttle-tailslow", "on" | "true" | "yes") => Some(Ok(true.into())),
        ("cpu-throttle-tailslow", "off" | "false" | "no") => Some(Ok(false.into())),
        ("cpu-throttle-tailslow", other) => Some(Err(not_accepted(name, other))),
        _ => None,
    }
}
