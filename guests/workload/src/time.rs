//! Time out of a time-stamp counter.

/// A frequency out of kvmclock's multiplier and shift, in kHz. 0 if they make none.
///
/// Linux, Documentation/virt/kvm/x86/msr.rst: nanoseconds = (ticks << shift) * multiplier >> 32.
pub fn khz_of_scale(multiplier: u32, shift: i8) -> u64 {
    if multiplier == 0 {
        return 0;
    }
    let khz = (1_000_000u128 << 32) / u128::from(multiplier);
    let khz = match shift {
        0..=31 => khz >> shift,
        -31..=-1 => khz << -shift,
        _ => 0,
    };
    u64::try_from(khz).unwrap_or(0)
}

/// Ticks into nanoseconds, by kvmclock's multiplier and shift.
#[inline]
pub fn scale(ticks: u64, multiplier: u32, shift: i8) -> u64 {
    let ticks = u128::from(ticks);
    let shifted = if shift >= 0 { ticks << (shift & 31) } else { ticks >> (-i32::from(shift)).min(127) };
    ((shifted * u128::from(multiplier)) >> 32) as u64
}

/// Watches a counter that should only go forward, and the longest step that it makes.
#[derive(Debug)]
pub struct Gap {
    last: u64,
    longest: u64,
    backward: u64,
}

impl Gap {
    /// Starts at `now`.
    pub fn new(now: u64) -> Self {
        Self { last: now, longest: 0, backward: 0 }
    }

    /// The counter says `now`. Returns the step since the last time, 0 if it went back.
    #[inline]
    pub fn step(&mut self, now: u64) -> u64 {
        let step = now.checked_sub(self.last);
        self.last = now;
        match step {
            Some(step) => {
                self.longest = self.longest.max(step);
                step
            }
            None => {
                self.backward += 1;
                0
            }
        }
    }

    /// The longest step since this was last asked.
    pub fn take_longest(&mut self) -> u64 {
        core::mem::take(&mut self.longest)
    }

    /// How often the counter went backwards.
    pub fn backward(&self) -> u64 {
        self.backward
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_gives_its_frequency() {
        // 2.5 GHz: 0.4 ns a tick, as KVM writes it (shift 0, multiplier 0.4 * 2^32) and doubled by a shift.
        assert_eq!(khz_of_scale(1_717_986_918, 0) / 10, 250_000);
        assert_eq!(khz_of_scale(3_435_973_836, -1) / 10, 250_000);
        assert_eq!(khz_of_scale(0, 0), 0);
        assert_eq!(khz_of_scale(1, 127), 0);
    }

    #[test]
    fn ticks_become_nanoseconds() {
        assert_eq!(scale(2_500_000_000, 3_435_973_836, -1) / 10, 99_999_999);
        assert_eq!(scale(1000, 1 << 31, 1), 1000);
        let _ = scale(u64::MAX, u32::MAX, i8::MAX);
        let _ = scale(u64::MAX, u32::MAX, i8::MIN);
    }

    #[test]
    fn the_longest_step_and_every_step_back_are_seen() {
        let mut gap = Gap::new(100);
        assert_eq!(gap.step(110), 10);
        assert_eq!(gap.step(105), 0);
        assert_eq!(gap.step(135), 30);
        assert_eq!(gap.backward(), 1);
        assert_eq!(gap.take_longest(), 30);
        assert_eq!(gap.take_longest(), 0);
    }
}
