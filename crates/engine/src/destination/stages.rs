use std::time::{Duration, Instant};

/// Where the time went that accesses waited for missing pages, all of them together. A wait begins when the access is heard of, and the
/// page is asked for at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stages {
    /// Until the batch began to arrive that had the page: the request went there, was served, waited for what was on the wire before it.
    pub under_way: Duration,
    /// Until the batch was received.
    pub receiving: Duration,
    /// Until its pages were before the machine.
    pub placing: Duration,
    /// Waits that these are of.
    pub waits: u64,
    /// Of them, waits that a page channel ended: the page was on its way already when it was asked for.
    pub pushed: u64,
}

/// How a batch of pages came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Came {
    /// When it began to arrive.
    pub(super) begun: Instant,
    /// When the last byte was received.
    pub(super) received: Instant,
    /// Whether it came on a page channel, where nobody asks for anything.
    pub(super) is_pushed: bool,
}

impl Stages {
    /// A wait since `since` is over that `came` brought the last page for, and that page is placed `now`.
    pub(super) fn add(&mut self, since: Instant, came: Came, now: Instant) {
        // What was on its way before anybody waited cost nobody anything.
        let (begun, received) = (came.begun.max(since), came.received.max(since));
        self.under_way += begun.saturating_duration_since(since);
        self.receiving += received.saturating_duration_since(begun);
        self.placing += now.saturating_duration_since(received);
        self.waits += 1;
        self.pushed += u64::from(came.is_pushed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_divided_without_rest_wherever_in_the_batchs_way_it_begins() {
        let begun = Instant::now();
        let at = |micros| begun + Duration::from_micros(micros);
        let came = Came { begun: at(100), received: at(250), is_pushed: true };
        for (since, parts) in [(0, [100, 150, 50]), (120, [0, 130, 50]), (260, [0, 0, 40])] {
            let mut stages = Stages::default();
            stages.add(at(since), came, at(300));
            let found = [stages.under_way, stages.receiving, stages.placing].map(|part| part.as_micros());
            assert_eq!((found, stages.waits, stages.pushed), (parts, 1, 1));
        }
    }
}
