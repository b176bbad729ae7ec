use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Holds all channels together to a number of bytes per second.
///
/// Works like a leaky bucket: every send books the time that its bytes take at the rate, and waits until the bookings of all
/// sends before it have passed. The rate can be changed at any time; a thread that waits notices at once.
#[derive(Debug)]
pub struct Pacer {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// Bytes per second; 0 for no limit.
    rate: u64,
    /// When the bookings so far have passed.
    free_at: Instant,
    stopped: bool,
}

/// How far bookings may lag behind the clock: a thread that was late does not lose its share.
const SLACK: Duration = Duration::from_millis(10);

impl Pacer {
    /// Paces to `rate` bytes per second, 0 for no limit.
    #[must_use]
    pub fn new(rate: u64) -> Self {
        let state = State { rate, free_at: Instant::now(), stopped: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Waits until `bytes` may be sent. Answers `false` when pacing was stopped and nothing should be sent any more.
    pub fn wait(&self, bytes: u64) -> bool {
        let mut state = self.state.lock();
        loop {
            if state.stopped {
                return false;
            }
            if state.rate == 0 {
                return true;
            }
            let now = Instant::now();
            if state.free_at <= now {
                let begin = state.free_at.max(now.checked_sub(SLACK).unwrap_or(now));
                state.free_at = begin + Duration::from_secs_f64(bytes as f64 / state.rate as f64);
                return true;
            }
            let free_at = state.free_at;
            self.changed.wait_until(&mut state, free_at);
        }
    }

    /// The rate in force, 0 for no limit.
    #[must_use]
    pub fn rate(&self) -> u64 {
        self.state.lock().rate
    }

    /// Changes the rate, 0 for no limit.
    pub fn set_rate(&self, rate: u64) {
        let mut state = self.state.lock();
        if state.rate != rate {
            state.rate = rate;
            // What was booked at the old rate is forgotten: it may lie hours ahead.
            state.free_at = Instant::now();
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Ends all waits, now and later.
    pub fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_limit_nothing_waits() {
        let pacer = Pacer::new(0);
        assert!((0..1_000_000).all(|_| pacer.wait(u64::MAX / 2)));
    }

    #[test]
    fn bytes_take_at_least_the_time_that_the_rate_gives_them() {
        let pacer = Pacer::new(10_000_000);
        let began = Instant::now();
        for _ in 0..11 {
            assert!(pacer.wait(100_000));
        }
        // The last booking is not waited for.
        assert!(began.elapsed() >= Duration::from_millis(100) - SLACK, "{:?}", began.elapsed());
    }

    #[test]
    fn lifting_the_limit_frees_a_thread_that_waits() {
        let pacer = Pacer::new(1);
        assert!(pacer.wait(1_000_000));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| pacer.wait(1));
            pacer.set_rate(0);
            assert!(waiting.join().unwrap());
        });
    }

    #[test]
    fn stopping_frees_a_thread_that_waits_and_says_so() {
        let pacer = Pacer::new(1);
        assert!(pacer.wait(1_000_000));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| pacer.wait(1));
            pacer.stop();
            assert!(!waiting.join().unwrap());
        });
    }
}
