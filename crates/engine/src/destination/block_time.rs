use std::time::{Duration, Instant};

/// How long vCPUs stood still for pages that were missing.
///
/// A wait counts for a vCPU if its own thread waits. With asynchronous page faults (KVM's, where the guest has them) a
/// thread of the kernel waits in its place, and the vCPU goes on with other work of the guest: that is in
/// [`Latencies`](super::Latencies) only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockTime {
    /// Of each vCPU, in their order.
    pub vcpus: Vec<Duration>,
    /// Of all of them at once: the machine stood still.
    pub all: Duration,
}

/// Adds it up.
#[derive(Debug, Default)]
pub(super) struct Blocked {
    vcpus: Vec<Vcpu>,
    all: Duration,
    /// Since when all of them wait.
    all_since: Option<Instant>,
}

#[derive(Debug)]
struct Vcpu {
    thread: u32,
    /// It waits: for what, and since when.
    waits: Option<(Place, Instant)>,
    total: Duration,
}

/// Block and first page of what is waited for.
type Place = (u16, u64);

impl Blocked {
    /// Of vCPUs with these threads, as the kernel numbers them.
    pub(super) fn of(threads: &[u32]) -> Self {
        let vcpu = |&thread| Vcpu { thread, waits: None, total: Duration::ZERO };
        Self { vcpus: threads.iter().map(vcpu).collect(), all: Duration::ZERO, all_since: None }
    }

    /// A thread waits for `place` from `now` on. One that is no vCPU's changes nothing.
    pub(super) fn waits(&mut self, thread: u32, place: Place, now: Instant) {
        let Some(vcpu) = self.vcpus.iter_mut().find(|vcpu| vcpu.thread == thread) else { return };
        // Where it waited for another, that has come and was not noted yet.
        if let Some((_, since)) = vcpu.waits.replace((place, now)) {
            vcpu.total += now.saturating_duration_since(since);
        }
        if self.vcpus.iter().all(|vcpu| vcpu.waits.is_some()) {
            self.all_since.get_or_insert(now);
        }
    }

    /// What the thread waited for is here, unless it waits for something else by now.
    pub(super) fn goes_on(&mut self, thread: u32, place: Place, now: Instant) {
        let Some(vcpu) = self.vcpus.iter_mut().find(|vcpu| vcpu.thread == thread) else { return };
        let Some((_, since)) = vcpu.waits.take_if(|(waited, _)| *waited == place) else { return };
        vcpu.total += now.saturating_duration_since(since);
        if let Some(since) = self.all_since.take() {
            self.all += now.saturating_duration_since(since);
        }
    }

    /// As it stands `now`, waits that are not over included.
    pub(super) fn read(&self, now: Instant) -> BlockTime {
        let so_far = |since: Option<Instant>| {
            since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
        };
        BlockTime {
            vcpus: self
                .vcpus
                .iter()
                .map(|vcpu| vcpu.total + so_far(vcpu.waits.map(|(_, since)| since)))
                .collect(),
            all: self.all + so_far(self.all_since),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Place = (0, 5);

    #[test]
    fn each_vcpu_has_its_own_time_and_the_machine_stood_still_while_all_of_them_waited() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let ms = Duration::from_millis;
        let mut blocked = Blocked::of(&[7, 8]);
        blocked.waits(7, HERE, at(0));
        blocked.waits(99, HERE, at(0));
        blocked.waits(8, HERE, at(10));
        assert_eq!(blocked.read(at(12)), BlockTime { vcpus: vec![ms(12), ms(2)], all: ms(2) });
        blocked.goes_on(7, HERE, at(15));
        blocked.goes_on(99, HERE, at(15));
        blocked.waits(7, HERE, at(30));
        blocked.goes_on(8, HERE, at(40));
        blocked.goes_on(7, HERE, at(45));
        assert_eq!(blocked.read(at(100)), BlockTime { vcpus: vec![ms(30), ms(30)], all: ms(15) });
    }

    #[test]
    fn what_goes_on_twice_or_never_waited_adds_nothing() {
        let now = Instant::now();
        let mut blocked = Blocked::of(&[7]);
        blocked.goes_on(7, HERE, now);
        blocked.waits(7, HERE, now);
        blocked.goes_on(7, HERE, now + Duration::from_millis(1));
        blocked.goes_on(7, HERE, now + Duration::from_millis(5));
        assert_eq!(blocked.read(now).all, Duration::from_millis(1));
        assert_eq!(Blocked::of(&[]).read(now), BlockTime::default());
    }

    #[test]
    fn what_came_late_does_not_end_the_wait_for_the_next_page() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut blocked = Blocked::of(&[7]);
        blocked.waits(7, HERE, at(0));
        blocked.waits(7, (0, 6), at(10));
        blocked.goes_on(7, HERE, at(12));
        blocked.goes_on(7, (0, 6), at(30));
        assert_eq!(blocked.read(at(99)).vcpus, [Duration::from_millis(30)]);
    }
}
