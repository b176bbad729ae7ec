use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Where channel threads wait for each other at the end of a round. Unlike the standard library's it can be broken, so that
/// a channel that fails does not leave the others waiting for ever.
#[derive(Debug)]
pub(super) struct Barrier {
    parties: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: usize,
    generation: u64,
    broken: bool,
}

impl Barrier {
    pub(super) fn new(parties: usize) -> Self {
        Self { parties, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Waits until all parties wait. Returns `false` when the barrier was broken.
    pub(super) fn wait(&self) -> bool {
        let mut state = self.lock();
        if state.broken {
            return false;
        }
        state.waiting += 1;
        if state.waiting == self.parties {
            state.waiting = 0;
            state.generation += 1;
            self.changed.notify_all();
            return true;
        }
        let generation = state.generation;
        while state.generation == generation && !state.broken {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.generation != generation
    }

    /// Lets everybody go who waits, now and later.
    pub(super) fn shatter(&self) {
        self.lock().broken = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_passes_before_all_are_there_round_after_round() {
        let (barrier, passed) = (Barrier::new(3), std::sync::atomic::AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for round in 0..1000 {
                        let before = passed.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        assert!(before >= round * 3, "a thread is a round ahead");
                        assert!(barrier.wait());
                    }
                });
            }
        });
    }

    #[test]
    fn breaking_it_frees_those_who_wait_and_those_who_come() {
        let barrier = Barrier::new(2);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| barrier.wait());
            barrier.shatter();
            assert!(!waiting.join().unwrap());
        });
        assert!(!barrier.wait());
    }
}
