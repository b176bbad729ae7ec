use std::{
    fs, thread,
    time::{Duration, Instant},
};

use crate::LabError;

/// Between two looks at a condition.
const GLANCE: Duration = Duration::from_millis(20);

/// Waits until `look` sees something, and returns it.
///
/// # Errors
/// It did not within `limit`, or longer on a busy machine, or looking failed.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<Option<T>, LabError>,
) -> Result<T, LabError> {
    let limit = patient(limit);
    let deadline = Instant::now() + limit;
    loop {
        if let Some(seen) = look()? {
            return Ok(seen);
        }
        if Instant::now() >= deadline {
            return Err(LabError::Late { what: what.into(), limit });
        }
        thread::sleep(GLANCE);
    }
}

/// How long may take now what takes `limit` at most on a machine that has nothing else to do: as many times longer as there
/// are programs that want to run for each processor (proc(5), `/proc/loadavg`).
pub(crate) fn patient(limit: Duration) -> Duration {
    const MOST: f64 = 8.0;
    let load = fs::read_to_string("/proc/loadavg").ok();
    let load: Option<f64> = load.and_then(|text| text.split(' ').next()?.parse().ok());
    let processors = thread::available_parallelism().map_or(1, usize::from);
    limit.mul_f64((load.unwrap_or(1.0) / processors as f64).clamp(1.0, MOST))
}
