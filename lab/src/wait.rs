use std::{
    fs,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::LabError;

/// How long things may take in the hosts of a lab.
///
/// A limit in this crate says how long something takes at most on a quiet machine whose hosts are as fast as
/// [`REFERENCE`]. Here it is stretched to the machine at hand. It ends what hangs; it is never a verdict on speed.
#[derive(Debug)]
pub struct Pace {
    /// How many times slower the hosts are than the reference, in thousandths.
    slowness: AtomicU64,
}

/// Pages that a host of the reference writes and checks in a second while the other host does the same: two EPYC cores of
/// 2.4 GHz.
const REFERENCE: u64 = 150_000;
/// Hosts that are slower than this have another trouble.
const MOST_SLOWNESS: f64 = 50.0;
/// Between two looks at a condition.
const GLANCE: Duration = Duration::from_millis(20);
/// What moves on may take so many times longer than what stands still.
const WHILE_IT_MOVES: u32 = 6;

impl Default for Pace {
    fn default() -> Self {
        Self { slowness: AtomicU64::new(1000) }
    }
}

impl Pace {
    /// Hosts write and check so many pages in a second.
    pub(crate) fn measured(&self, pages_per_second: u64) {
        let slowness = (REFERENCE as f64 / pages_per_second.max(1) as f64).clamp(1.0, MOST_SLOWNESS);
        self.slowness.store((slowness * 1000.0) as u64, Ordering::Relaxed);
    }

    /// How many times slower the hosts are than the reference, at least 1.
    pub(crate) fn slowness(&self) -> f64 {
        self.slowness.load(Ordering::Relaxed) as f64 / 1000.0
    }

    /// How long may take here and now what takes `limit` at most on the reference: longer where hosts are slower, and as
    /// many times longer as there are programs that want to run for each processor (proc(5), `/proc/loadavg`).
    #[must_use]
    pub fn stretch(&self, limit: Duration) -> Duration {
        limit.mul_f64(self.slowness() * load())
    }

    /// Waits until `look` sees something, and returns it.
    ///
    /// # Errors
    /// It did not within the stretched `limit`, or looking failed.
    pub fn until<T>(
        &self,
        what: &str,
        limit: Duration,
        mut look: impl FnMut() -> Result<Option<T>, LabError>,
    ) -> Result<T, LabError> {
        self.while_it_moves(what, limit, || Ok(look()?.ok_or(0)))
    }

    /// As [`Pace::until`], for something that shows how far it is: as long as it is not there `look` returns a number,
    /// and every change of it is a sign of life after which the limit begins anew.
    ///
    /// # Errors
    /// Nothing moved within the stretched `limit`, it took six times as long in all, or looking failed.
    pub fn while_it_moves<T>(
        &self,
        what: &str,
        limit: Duration,
        mut look: impl FnMut() -> Result<Result<T, u64>, LabError>,
    ) -> Result<T, LabError> {
        let mut watch = Watch::new(self, limit);
        loop {
            match look()? {
                Ok(seen) => return Ok(seen),
                Err(sign) if watch.is_over(sign) => {
                    return Err(LabError::Late { what: what.into(), limit: watch.limit });
                }
                Err(_) => thread::sleep(GLANCE),
            }
        }
    }
}

/// Tells what still moves from what hangs.
#[derive(Debug)]
pub(crate) struct Watch {
    limit: Duration,
    began: Instant,
    moved: Instant,
    sign: Option<u64>,
}

impl Watch {
    pub(crate) fn new(pace: &Pace, limit: Duration) -> Self {
        let now = Instant::now();
        Self { limit: pace.stretch(limit), began: now, moved: now, sign: None }
    }

    /// Whether it is not to be waited for any more, now that it shows `sign`.
    pub(crate) fn is_over(&mut self, sign: u64) -> bool {
        let now = Instant::now();
        if self.sign.replace(sign) != Some(sign) {
            self.moved = now;
        }
        now - self.moved >= self.limit || now - self.began >= self.limit * WHILE_IT_MOVES
    }

    /// Without a sign it is over in this time.
    pub(crate) fn left(&self) -> Duration {
        let over = (self.moved + self.limit).min(self.began + self.limit * WHILE_IT_MOVES);
        over.saturating_duration_since(Instant::now())
    }

    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }
}

/// Programs that want to run for each processor, 1 to 8.
fn load() -> f64 {
    const MOST: f64 = 8.0;
    let load = fs::read_to_string("/proc/loadavg").ok();
    let load: Option<f64> = load.and_then(|text| text.split(' ').next()?.parse().ok());
    let processors = thread::available_parallelism().map_or(1, usize::from);
    (load.unwrap_or(1.0) / processors as f64).clamp(1.0, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_host_is_waited_for_longer() {
        let pace = Pace::default();
        pace.measured(REFERENCE / 10);
        assert!(pace.stretch(Duration::from_secs(1)) >= Duration::from_secs(10));
        pace.measured(REFERENCE * 2);
        assert!(pace.stretch(Duration::from_secs(1)) >= Duration::from_secs(1));
    }

    #[test]
    fn what_stands_still_is_given_up_and_what_moves_is_not() {
        let pace = Pace::default();
        let still = pace.while_it_moves::<()>("it moves", Duration::ZERO, || Ok(Err(7)));
        assert!(matches!(still, Err(LabError::Late { .. })));
        let mut watch = Watch::new(&pace, Duration::from_secs(3600));
        assert!((0..1000).all(|sign| !watch.is_over(sign)));
    }
}
