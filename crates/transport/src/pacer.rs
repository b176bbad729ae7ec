use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

/// Holds all channels together to a number of bytes per second.
///
/// Works like a leaky bucket: every send books the time that its bytes take at the rate, and waits until the bookings of all
/// sends before it have passed. The rate can be changed at any time; a thread that waits notices at once. Without a limit there
/// is nothing to book, and no lock is taken.
#[derive(Debug)]
pub struct Pacer {
    /// Bytes per second; 0 for no limit. Changed while `free_at` is locked, as is `stopped`, so that who is about to wait sees it.
    rate: AtomicU64,
    stopped: AtomicBool,
    /// When the bookings so far have passed.
    free_at: Mutex<Instant>,
    changed: Condvar,
}

/// Whether bytes may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// They may, and are booked.
    Now,
    /// Not yet.
    Later,
    /// Pacing was stopped: nothing should be sent any more.
    Stopped,
}

/// How far bookings may lag behind the clock: a thread that was late does not lose its share.
const SLACK: Duration = Duration::from_millis(10);

impl Pacer {
    /// Paces to `rate` bytes per second, 0 for no limit.
    #[must_use]
    pub fn new(rate: u64) -> Self {
        Self {
            rate: AtomicU64::new(rate),
            stopped: AtomicBool::new(false),
            free_at: Mutex::new(Instant::now()),
            changed: Condvar::new(),
        }
    }

    /// Waits until `bytes` may be sent. Returns `false` when pacing was stopped and nothing should be sent any more.
    pub fn wait(&self, bytes: u64) -> bool {
        self.turn(bytes, None) == Turn::Now
    }

    /// As [`Self::wait`], but no longer than `patience`.
    pub fn wait_within(&self, bytes: u64, patience: Duration) -> Turn {
        self.turn(bytes, Some(patience))
    }

    fn turn(&self, bytes: u64, patience: Option<Duration>) -> Turn {
        if self.rate() == 0 {
            return if self.stopped.load(Ordering::Relaxed) { Turn::Stopped } else { Turn::Now };
        }
        let give_up = patience.map(|patience| Instant::now() + patience);
        let mut free_at = self.free_at.lock();
        loop {
            let rate = self.rate();
            if self.stopped.load(Ordering::Relaxed) {
                return Turn::Stopped;
            }
            if rate == 0 {
                return Turn::Now;
            }
            let now = Instant::now();
            if *free_at <= now {
                let begin = now.checked_sub(SLACK).map_or(*free_at, |slack| slack.max(*free_at));
                *free_at = begin + Duration::from_secs_f64(bytes as f64 / rate as f64);
                return Turn::Now;
            }
            if give_up.is_some_and(|give_up| give_up <= now) {
                return Turn::Later;
            }
            let until = give_up.map_or(*free_at, |give_up| give_up.min(*free_at));
            self.changed.wait_until(&mut free_at, until);
        }
    }

    /// The rate in force, 0 for no limit.
    #[must_use]
    pub fn rate(&self) -> u64 {
        self.rate.load(Ordering::Relaxed)
    }

    /// Changes the rate, 0 for no limit.
    pub fn set_rate(&self, rate: u64) {
        let mut free_at = self.free_at.lock();
        if self.rate.swap(rate, Ordering::Relaxed) != rate {
            // What was booked at the old rate is forgotten: it may lie hours ahead.
            *free_at = Instant::now();
        }
        drop(free_at);
        self.changed.notify_all();
    }

    /// Ends all waits, now and later.
    pub fn stop(&self) {
        let free_at = self.free_at.lock();
        self.stopped.store(true, Ordering::Relaxed);
        drop(free_at);
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
    fn without_a_limit_no_lock_is_taken() {
        let pacer = Pacer::new(0);
        let _held = pacer.free_at.lock();
        assert!(pacer.wait(1 << 20));
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
    fn a_turn_that_does_not_come_in_time_books_nothing() {
        let pacer = Pacer::new(1000);
        assert!(pacer.wait(1_000_000));
        let free_at = *pacer.free_at.lock();
        assert_eq!(pacer.wait_within(1, Duration::ZERO), Turn::Later);
        assert_eq!(*pacer.free_at.lock(), free_at);
        pacer.set_rate(0);
        assert_eq!(pacer.wait_within(1, Duration::ZERO), Turn::Now);
    }

    #[test]
    fn after_stopping_nothing_is_sent_with_a_limit_or_without() {
        for rate in [0, 1_000_000] {
            let pacer = Pacer::new(rate);
            pacer.stop();
            assert!(!pacer.wait(1));
            assert_eq!(pacer.wait_within(1, Duration::ZERO), Turn::Stopped);
        }
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
