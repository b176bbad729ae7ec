use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

/// Time that is taken from a vCPU, a piece at a time.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// A piece is due. Set before the vCPU is made to leave the guest, as the request to stop is.
    due: AtomicBool,
    piece: Mutex<Duration>,
    /// The machine is to stop: a rest ends then.
    ends: Condvar,
    /// Nanoseconds of all rests.
    taken: AtomicU64,
}

impl Rest {
    /// Asks for a rest of this length. Returns false if there is one already.
    pub(super) fn ask(&self, piece: Duration) -> bool {
        // Held by the vCPU while it rests.
        let Some(mut wanted) = self.piece.try_lock() else { return false };
        *wanted = piece;
        !self.due.swap(true, Ordering::SeqCst)
    }

    /// On the vCPU's thread, outside of the guest: rests if that is due, no longer than until `stop` is set.
    pub(super) fn take(&self, stop: &AtomicBool) {
        if !self.due.swap(false, Ordering::SeqCst) {
            return;
        }
        let began = Instant::now();
        let mut piece = self.piece.lock();
        let deadline = began + *piece;
        while !stop.load(Ordering::SeqCst) && !self.ends.wait_until(&mut piece, deadline).timed_out() {}
        let took = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.taken.fetch_add(took, Ordering::Relaxed);
    }

    /// After `stop` was set: the vCPU does not rest any more.
    pub(super) fn end(&self) {
        // Whoever is about to wait has the lock, and looks at `stop` before it waits.
        drop(self.piece.lock());
        self.ends.notify_all();
    }

    /// How long it has rested in all.
    pub(super) fn taken(&self) -> Duration {
        Duration::from_nanos(self.taken.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{sync::Arc, thread};

    #[test]
    fn a_rest_is_taken_once_and_counted() {
        let (rest, stop) = (Rest::default(), AtomicBool::new(false));
        rest.take(&stop);
        assert_eq!(rest.taken(), Duration::ZERO);
        assert!(rest.ask(Duration::from_millis(2)));
        assert!(!rest.ask(Duration::from_millis(2)), "it is due already");
        rest.take(&stop);
        let taken = rest.taken();
        assert!(taken >= Duration::from_millis(2));
        rest.take(&stop);
        assert_eq!(rest.taken(), taken);
    }

    #[test]
    fn a_machine_that_is_to_stop_does_not_wait_for_a_rest() {
        let (rest, stop) = (Arc::new(Rest::default()), Arc::new(AtomicBool::new(false)));
        assert!(rest.ask(Duration::from_secs(3600)));
        let (theirs, stops) = (rest.clone(), stop.clone());
        let vcpu = thread::spawn(move || theirs.take(&stops));
        stop.store(true, Ordering::SeqCst);
        rest.end();
        vcpu.join().unwrap();
        assert!(rest.taken() < Duration::from_secs(3600));
    }
}
