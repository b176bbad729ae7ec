//! The line that the guest prints about itself each second.

use core::{
    fmt::{self, Write},
    sync::atomic::{AtomicU64, Ordering},
};

use workload::{page::BYTES, time::Gap};

use crate::{
    clock::Clock,
    console::{self, Text, say},
    shared::{self, Counts, ORDERS, SHORTEST_WAIT_US, Setup, WAITS},
};

/// When the next report is due, and what the last one said.
#[derive(Debug)]
pub(crate) struct Reporter {
    sequence: u64,
    started: u64,
    period: u64,
    due: u64,
    last: u64,
    last_dirtied: u64,
    longest_gap: u64,
    kvmclock: Gap,
    longest_kvmclock_gap: u64,
    tells_waits: bool,
}

impl Reporter {
    /// Reports every `period` ticks from `now` on; also, if it `tells_waits`, how long accesses to memory took.
    pub(crate) fn new(now: u64, period: u64, clock: &Clock, tells_waits: bool) -> Self {
        Self {
            sequence: 0,
            started: now,
            period,
            due: now.wrapping_add(period),
            last: now,
            last_dirtied: 0,
            longest_gap: 0,
            kvmclock: Gap::new(clock.kvmclock_ns()),
            longest_kvmclock_gap: 0,
            tells_waits,
        }
    }

    /// One turn: watches kvmclock, and reports if it is time and the last report has gone out. A port that is too slow for
    /// the period gets fewer reports: none is lost, and none is old. `devices` adds what the devices count.
    pub(crate) fn turn(
        &mut self,
        now: u64,
        clock: &Clock,
        setup: &Setup,
        devices: impl FnOnce(&mut Text) -> fmt::Result,
    ) {
        let kvmclock_ns = clock.kvmclock_ns();
        self.kvmclock.step(kvmclock_ns);
        // Also if the TSC went far back: a report is never more than a period away.
        let left = self.due.wrapping_sub(now);
        if (left <= self.period && left > 0) || !console::is_idle() {
            return;
        }
        self.due = if now.wrapping_sub(self.due) < self.period { self.due } else { now };
        self.due = self.due.wrapping_add(self.period);
        let mut extra = Text::new();
        let _ = devices(&mut extra);
        if self.tells_waits {
            let _ = tell_waits(&mut extra, setup, clock);
        }
        self.report(now, kvmclock_ns, clock, setup, extra.as_str());
    }

    fn report(&mut self, now: u64, kvmclock_ns: u64, clock: &Clock, setup: &Setup, devices: &str) {
        let mut sums = Sums::default();
        for (cpu, counts) in shared::working(setup) {
            sums.dirtied += counts.dirtied.load(Ordering::Relaxed) * BYTES;
            let verified = counts.verified.load(Ordering::Relaxed);
            sums.verified += verified;
            if setup.ranks[cpu].is_some_and(|rank| u64::from(rank) >= setup.writers) {
                sums.read += verified;
            }
            sums.errors += counts.errors.load(Ordering::Relaxed);
            sums.tsc_backward += counts.tsc_backward.load(Ordering::Relaxed);
            sums.passes = sums.passes.min(counts.passes.load(Ordering::Relaxed));
            // A CPU that has not turned for a while has a gap that it has not seen the end of.
            let since = now.saturating_sub(counts.last_turn.load(Ordering::Relaxed));
            let gap = counts.longest_gap.swap(0, Ordering::Relaxed).max(since);
            if gap > sums.gap {
                (sums.gap, sums.gap_cpu) = (gap, cpu);
            }
        }
        self.longest_gap = self.longest_gap.max(sums.gap);
        let kvmclock_gap = self.kvmclock.take_longest();
        self.longest_kvmclock_gap = self.longest_kvmclock_gap.max(kvmclock_gap);
        let us = |ticks: u64| ticks.saturating_mul(1000) / clock.tsc_khz;
        let elapsed_us = us(now.saturating_sub(self.last)).max(1);
        let rate = (sums.dirtied - self.last_dirtied).saturating_mul(1_000_000) / elapsed_us;
        say!(
            "whimbrel seq={} wall_ms={} tsc_ms={} clock_ns={kvmclock_ns} dirtied={} rate={rate} verified={} \
             passes={} errors={} gap_us={} gap_cpu={} maxgap_us={} clockgap_us={} maxclockgap_us={} \
             tsc_back={} clock_back={} cpu=0 cpus={} filled={} work={} owned={} read={} lost={}{devices}",
            self.sequence,
            clock.wall_ms(kvmclock_ns),
            us(now.saturating_sub(self.started)) / 1000,
            sums.dirtied,
            sums.verified,
            sums.passes,
            sums.errors,
            us(sums.gap),
            sums.gap_cpu,
            us(self.longest_gap),
            kvmclock_gap / 1000,
            self.longest_kvmclock_gap / 1000,
            sums.tsc_backward,
            self.kvmclock.backward(),
            setup.cpus,
            u8::from(ORDERS.filled.load(Ordering::Relaxed)),
            ORDERS.work_pages.load(Ordering::Relaxed) * BYTES,
            ORDERS.limit.load(Ordering::Relaxed) * BYTES,
            sums.read,
            console::lost_lines(),
        );
        self.sequence += 1;
        (self.last, self.last_dirtied) = (now, sums.dirtied);
    }
}

struct Sums {
    dirtied: u64,
    verified: u64,
    read: u64,
    passes: u64,
    errors: u64,
    tsc_backward: u64,
    gap: u64,
    gap_cpu: usize,
}

impl Default for Sums {
    fn default() -> Self {
        Self {
            dirtied: 0,
            verified: 0,
            read: 0,
            passes: u64::MAX,
            errors: 0,
            tsc_backward: 0,
            gap: 0,
            gap_cpu: 0,
        }
    }
}

/// How long accesses to memory took that took long: of each class how many, and all together.
fn tell_waits(text: &mut Text, setup: &Setup, clock: &Clock) -> fmt::Result {
    let sum = |of: &dyn Fn(&'static Counts) -> &'static AtomicU64| {
        shared::working(setup).map(|(_, counts)| of(counts).load(Ordering::Relaxed)).sum::<u64>()
    };
    field(text, "waited_us", sum(&|counts| &counts.waited).saturating_mul(1000) / clock.tsc_khz)?;
    for class in 0..WAITS {
        let count = sum(&|counts| &counts.waits[class]);
        if count > 0 {
            write!(text, " waits{}={count}", SHORTEST_WAIT_US << class)?;
        }
    }
    Ok(())
}

/// Writes ` name=value`.
pub(crate) fn field(text: &mut Text, name: &str, value: u64) -> fmt::Result {
    write!(text, " {name}={value}")
}
