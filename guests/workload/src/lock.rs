//! Sharing between CPUs without an operating system.

use core::{
    cell::UnsafeCell,
    ops::{Deref, DerefMut},
    sync::atomic::{AtomicBool, Ordering},
};

use crate::cpu;

/// A value that one CPU at a time may use. Held for microseconds only.
#[derive(Debug)]
pub(crate) struct Lock<T> {
    held: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: `held` lets only one CPU at a time reach the value.
unsafe impl<T: Send> Sync for Lock<T> {}

impl<T> Lock<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self { held: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// Waits until no other CPU has it.
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        loop {
            if let Some(guard) = self.try_lock() {
                return guard;
            }
            cpu::pause();
        }
    }

    /// Takes it if no CPU has it.
    pub(crate) fn try_lock(&self) -> Option<Guard<'_, T>> {
        let free = self.held.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok();
        free.then_some(Guard(self))
    }
}

/// Gives the lock back when dropped.
#[derive(Debug)]
pub(crate) struct Guard<'a, T>(&'a Lock<T>);

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: a guard exists only while the lock is held by it.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and the guard is borrowed mutably.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        self.0.held.store(false, Ordering::Release);
    }
}

/// A value that the first CPU sets once and all CPUs read after.
#[derive(Debug)]
pub(crate) struct Once<T> {
    set: AtomicBool,
    value: UnsafeCell<Option<T>>,
}

// SAFETY: written before `set` is, and never after; readers look at `set` first.
unsafe impl<T: Send + Sync> Sync for Once<T> {}

impl<T> Once<T> {
    pub(crate) const fn new() -> Self {
        Self { set: AtomicBool::new(false), value: UnsafeCell::new(None) }
    }

    /// Sets it. Only the first CPU may, and only once; a second time changes nothing.
    pub(crate) fn set(&self, value: T) {
        if !self.set.load(Ordering::Relaxed) {
            // SAFETY: nobody reads before `set` is true, and only one CPU calls this.
            unsafe { *self.value.get() = Some(value) };
            self.set.store(true, Ordering::Release);
        }
    }

    /// The value, if it is set.
    pub(crate) fn get(&self) -> Option<&T> {
        if self.set.load(Ordering::Acquire) {
            // SAFETY: it is set, so nobody writes it any more.
            unsafe { (*self.value.get()).as_ref() }
        } else {
            None
        }
    }
}
