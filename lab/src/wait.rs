use std::{
    thread,
    time::{Duration, Instant},
};

use crate::LabError;

/// Between two looks at a condition.
const GLANCE: Duration = Duration::from_millis(20);

/// Waits until `look` sees something, and returns it.
///
/// # Errors
/// It did not within `limit`, or looking failed.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<Option<T>, LabError>,
) -> Result<T, LabError> {
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
