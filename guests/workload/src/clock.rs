//! Time: the TSC and how fast it ticks, and kvmclock where there is one.

use core::sync::atomic::{AtomicU32, Ordering, fence};

use workload::time;

use crate::{boot, cpu};

/// The clocks of the first CPU.
#[derive(Debug)]
pub(crate) struct Clock {
    /// TSC ticks per millisecond.
    pub(crate) tsc_khz: u64,
    /// Where that number is from.
    pub(crate) tsc_from: &'static str,
    /// Whether kvmclock is there.
    pub(crate) has_kvmclock: bool,
    wall_at_zero_ns: u64,
}

/// `struct pvclock_vcpu_time_info` (Linux, arch/x86/include/asm/pvclock-abi.h).
#[repr(C)]
struct SystemTime {
    version: AtomicU32,
    pad: u32,
    tsc_timestamp: u64,
    system_time: u64,
    multiplier: u32,
    shift: i8,
    flags: u8,
    pad2: [u8; 2],
}

/// `struct pvclock_wall_clock`.
#[repr(C)]
struct WallClock {
    version: u32,
    seconds: u32,
    nanoseconds: u32,
}

impl Clock {
    /// Finds out how fast the TSC ticks.
    pub(crate) fn new() -> Self {
        let (system_time, wall) = boot::kvmclock_pages();
        // SAFETY: `boot.S` sets both aside; the host wrote the second before the MSR write returned.
        let (version, multiplier, shift, wall) = unsafe {
            let time = system_time.cast::<SystemTime>();
            let version = (*time).version.load(Ordering::Acquire);
            let (multiplier, shift) =
                (ptr_read(&raw const (*time).multiplier), ptr_read(&raw const (*time).shift));
            (version, multiplier, shift, wall.cast::<WallClock>().read_volatile())
        };
        let has_kvmclock = version != 0 && multiplier != 0;
        let kvmclock_khz = if has_kvmclock { time::khz_of_scale(multiplier, shift) } else { 0 };
        let (tsc_khz, tsc_from) = first_that_knows(kvmclock_khz);
        let wall_at_zero_ns = u64::from(wall.seconds) * 1_000_000_000 + u64::from(wall.nanoseconds);
        Self { tsc_khz, tsc_from, has_kvmclock, wall_at_zero_ns }
    }

    /// Nanoseconds that kvmclock counts; 0 without it. The host may change its rate at any time.
    #[inline]
    pub(crate) fn kvmclock_ns(&self) -> u64 {
        if !self.has_kvmclock {
            return 0;
        }
        let time = boot::kvmclock_pages().0.cast::<SystemTime>();
        loop {
            // SAFETY: `boot.S` sets it aside for this. The host writes it while we read, which an odd or
            // changed version tells (Linux, Documentation/virt/kvm/x86/msr.rst).
            unsafe {
                let version = (*time).version.load(Ordering::Acquire);
                let since = cpu::tsc().wrapping_sub(ptr_read(&raw const (*time).tsc_timestamp));
                let base = ptr_read(&raw const (*time).system_time);
                let (multiplier, shift) =
                    (ptr_read(&raw const (*time).multiplier), ptr_read(&raw const (*time).shift));
                fence(Ordering::Acquire);
                if version & 1 == 0 && version == (*time).version.load(Ordering::Relaxed) {
                    return base.wrapping_add(time::scale(since, multiplier, shift));
                }
            }
        }
    }

    /// Milliseconds since 1970 when kvmclock says `kvmclock_ns`; 0 without it.
    pub(crate) fn wall_ms(&self, kvmclock_ns: u64) -> u64 {
        if self.has_kvmclock { self.wall_at_zero_ns.wrapping_add(kvmclock_ns) / 1_000_000 } else { 0 }
    }
}

/// # Safety
/// As for a volatile read.
unsafe fn ptr_read<T>(place: *const T) -> T {
    // SAFETY: promised by the caller.
    unsafe { place.read_volatile() }
}

/// The TSC's frequency in kHz, and who says so.
fn first_that_knows(kvmclock_khz: u64) -> (u64, &'static str) {
    let hypervisor_khz = u64::from(boot::cpuid(0x4000_0010)[0]);
    let [denominator, numerator, crystal_hz, _] = boot::cpuid(0x15).map(u64::from);
    let crystal_khz = (crystal_hz * numerator).checked_div(denominator * 1000).unwrap_or(0);
    let sources = [(kvmclock_khz, "kvmclock"), (hypervisor_khz, "cpuid-40000010"), (crystal_khz, "cpuid-15")];
    let known = sources.into_iter().find(|(khz, _)| *khz > 0);
    known
        .or_else(|| Some(((0..PIT_TRIES).find_map(|_| measure_by_pit())?, "pit")))
        .unwrap_or((ASSUMED_KHZ, "assumed"))
}

/// For a machine that tells nothing: times are then right only up to a factor.
const ASSUMED_KHZ: u64 = 1_000_000;

/// A busy host spoils some.
const PIT_TRIES: u32 = 10;

/// Counts TSC ticks while the PIT's first channel (1.193182 MHz) counts 10 and 20 ms. `None` if there is no
/// PIT: then it does not count, or the two do not fit together.
fn measure_by_pit() -> Option<u64> {
    const CHANNEL_0: u16 = 0x40;
    const MODE: u16 = 0x43;
    /// Channel 0, both bytes, one shot. What it signals at the end reaches nobody.
    const ONE_SHOT: u8 = 0x30;
    const IN_10_MS: u16 = 11_932;
    cpu::out8(MODE, ONE_SHOT);
    cpu::out8(CHANNEL_0, 0xff);
    cpu::out8(CHANNEL_0, 0xff);
    let start = wait_for_pit(u16::MAX - 100)?;
    let middle = wait_for_pit(u16::MAX - 100 - IN_10_MS)?;
    let end = wait_for_pit(u16::MAX - 100 - 2 * IN_10_MS)?;
    let (half, whole) = (middle.wrapping_sub(start), end.wrapping_sub(start));
    let fits = whole.abs_diff(half.saturating_mul(2)) < half / 10 && half > 10_000;
    fits.then_some(whole / 20)
}

/// The TSC when the PIT's first channel has counted down to `count`.
fn wait_for_pit(count: u16) -> Option<u64> {
    const CHANNEL_0: u16 = 0x40;
    const MODE: u16 = 0x43;
    const LATCH_0: u8 = 0;
    /// Far more than 20 ms of exits.
    const MOST_TRIES: u32 = 100_000;
    for _ in 0..MOST_TRIES {
        cpu::out8(MODE, LATCH_0);
        let low = cpu::in8(CHANNEL_0);
        let now = u16::from_le_bytes([low, cpu::in8(CHANNEL_0)]);
        if now <= count {
            return Some(cpu::tsc());
        }
        if now == u16::MAX {
            return None;
        }
    }
    None
}
