use std::time::{Duration, Instant};

/// Longest that any one thing may take. Most take milliseconds; a busy machine of two CPUs can be slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at a condition.
const GLANCE: Duration = Duration::from_millis(5);

/// Waits until `look` sees something, and returns it.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(GLANCE);
    }
}

/// Waits until the condition holds.
pub(crate) fn holds(what: &str, mut condition: impl FnMut() -> bool) {
    until(what, || condition().then_some(()));
}
