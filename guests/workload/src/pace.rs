//! Keeping to a rate: how many pages are due now.

/// Turns time into a number of pages, evenly, at a rate that may change.
#[derive(Debug)]
pub struct Pacer {
    ticks_per_second: u64,
    page_bytes: u64,
    /// Bytes due, times ticks per second: whole numbers all the way, so nothing is lost to rounding.
    credit: u128,
}

/// Time that cannot be caught up with is forgiven beyond this. Without it a guest that was held up for a
/// second (a migration's downtime, say) would come back with a burst that no rate explains.
const MAX_DEBT_MS: u64 = 50;

impl Pacer {
    /// A pacer for a clock of `ticks_per_second` and pages of `page_bytes`.
    pub fn new(ticks_per_second: u64, page_bytes: u64) -> Self {
        Self { ticks_per_second, page_bytes, credit: 0 }
    }

    /// `ticks` went by at a rate of `rate` bytes per second.
    #[inline]
    pub fn earn(&mut self, ticks: u64, rate: u64) {
        let most = self.due_in(MAX_DEBT_MS, rate);
        let earned = u128::from(ticks) * u128::from(rate);
        self.credit = self.credit.saturating_add(earned).min(most.max(2 * self.price()));
    }

    /// Takes one page out of what is due. False if none is.
    #[inline]
    pub fn spend(&mut self) -> bool {
        match self.credit.checked_sub(self.price()) {
            Some(rest) => {
                self.credit = rest;
                true
            }
            None => false,
        }
    }

    /// Whether more is due than a well-fed CPU would have left over: a quarter of what is forgiven.
    #[inline]
    pub fn is_behind(&self, rate: u64) -> bool {
        self.credit > self.due_in(MAX_DEBT_MS / 4, rate).max(2 * self.price())
    }

    fn due_in(&self, ms: u64, rate: u64) -> u128 {
        let per_second = u128::from(rate) * u128::from(self.ticks_per_second);
        (per_second / 1000).saturating_mul(u128::from(ms))
    }

    fn price(&self) -> u128 {
        u128::from(self.page_bytes) * u128::from(self.ticks_per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HZ: u64 = 3_000_000_000;

    fn pages_in(pacer: &mut Pacer, ticks: u64, step: u64, rate: u64) -> u64 {
        let mut pages = 0;
        for _ in 0..ticks / step {
            pacer.earn(step, rate);
            while pacer.spend() {
                pages += 1;
            }
        }
        pages
    }

    #[test]
    fn a_second_brings_the_rate_at_any_step() {
        for rate in [4096, 10_000_000, 100_000_000, 10_000_000_000] {
            for step in [300, 30_000, 3_000_000] {
                let pages = pages_in(&mut Pacer::new(HZ, 4096), HZ, step, rate);
                assert!((rate / 4096).abs_diff(pages) <= 1, "rate {rate} step {step}: {pages}");
            }
        }
    }

    #[test]
    fn pages_come_evenly() {
        let mut pacer = Pacer::new(HZ, 4096);
        for _ in 0..1000 {
            let pages = pages_in(&mut pacer, HZ / 1000, HZ / 1_000_000, 100_000_000);
            assert!((24..=25).contains(&pages), "{pages}");
        }
    }

    #[test]
    fn a_long_gap_is_forgiven() {
        let mut pacer = Pacer::new(HZ, 4096);
        let pages = pages_in(&mut pacer, 10 * HZ, 10 * HZ, 100_000_000);
        assert_eq!(pages, 100_000_000 / 20 / 4096);
    }

    #[test]
    fn a_rate_of_zero_is_never_due() {
        assert_eq!(pages_in(&mut Pacer::new(HZ, 4096), HZ, 1000, 0), 0);
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let mut pacer = Pacer::new(u64::MAX, 4096);
        pacer.earn(u64::MAX, u64::MAX);
        assert!(pacer.is_behind(1));
    }
}
