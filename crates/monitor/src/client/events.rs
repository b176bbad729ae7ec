use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

use crate::protocol::Event;

/// Events that are kept for a client that does not ask for them. Beyond, the oldest are dropped.
const MAX_EVENTS: usize = 4096;

/// Events in the order in which they came. A handle: clones take from the same queue.
#[derive(Clone, Debug, Default)]
pub struct EventQueue {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<Event>,
    closed: bool,
}

impl EventQueue {
    /// The next event; `None` when none came within the time, or when the connection is closed and none is left.
    pub fn next(&self, timeout: Duration) -> Option<Event> {
        let deadline = Instant::now() + timeout;
        let mut queue = self.shared.queue.lock();
        while queue.events.is_empty() && !queue.closed {
            if self.shared.changed.wait_until(&mut queue, deadline).timed_out() {
                break;
            }
        }
        queue.events.pop_front()
    }

    /// Waits for an event of this name, and drops those before it.
    pub fn wait_for(&self, name: &str, timeout: Duration) -> Option<Event> {
        let deadline = Instant::now() + timeout;
        loop {
            let event = self.next(deadline.saturating_duration_since(Instant::now()))?;
            if event.event == name {
                return Some(event);
            }
        }
    }

    /// Whether the connection is closed, and no event is left.
    pub fn is_closed(&self) -> bool {
        let queue = self.shared.queue.lock();
        queue.closed && queue.events.is_empty()
    }

    pub(super) fn push(&self, event: Event) {
        let mut queue = self.shared.queue.lock();
        if queue.events.len() == MAX_EVENTS {
            queue.events.pop_front();
        }
        queue.events.push_back(event);
        self.shared.changed.notify_all();
    }

    pub(super) fn close(&self) {
        self.shared.queue.lock().closed = true;
        self.shared.changed.notify_all();
    }
}
