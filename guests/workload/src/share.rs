//! Which CPU owns which page.
//!
//! Pages go to CPUs in stripes of 16, round and round: 16 entries of the generation table are one cache
//! line, so two CPUs never write the same one, and an owner does not change when the working set does.

/// Pages in a stripe.
pub const STRIPE: u64 = 16;

/// The pages of one CPU.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// This CPU, from 0.
    pub cpu: u64,
    /// CPUs in all, at least 1.
    pub cpus: u64,
}

impl Share {
    /// How many of the pages below `limit` are ours.
    pub fn count(&self, limit: u64) -> u64 {
        let round = STRIPE * self.cpus;
        let rest = (limit % round).saturating_sub(self.cpu * STRIPE).min(STRIPE);
        limit / round * STRIPE + rest
    }

    /// Our `index`-th page (from 0).
    #[inline]
    pub fn page(&self, index: u64) -> u64 {
        (index / STRIPE * self.cpus + self.cpu) * STRIPE + index % STRIPE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_has_one_owner() {
        for cpus in [1, 2, 3, 7, 64] {
            for limit in [0, 1, 15, 16, 17, 100, 1024, 2047, 2048] {
                let mut owners = vec![0; limit as usize];
                for cpu in 0..cpus {
                    let share = Share { cpu, cpus };
                    for index in 0..share.count(limit) {
                        owners[share.page(index) as usize] += 1;
                    }
                }
                assert!(owners.iter().all(|&n| n == 1), "{cpus} CPUs, {limit} pages");
            }
        }
    }

    #[test]
    fn a_page_keeps_its_owner_when_the_limit_moves() {
        let share = Share { cpu: 1, cpus: 3 };
        let pages = |limit| (0..share.count(limit)).map(|i| share.page(i)).collect::<Vec<_>>();
        assert!(pages(1000).starts_with(&pages(500)));
    }
}
