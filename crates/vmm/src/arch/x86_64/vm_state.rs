//! The state of what all vCPUs share and KVM emulates: interrupt controllers, interval timer, clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kvm_bindings::{
    KVM_CLOCK_REALTIME, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_clock_data,
    kvm_ioapic_state, kvm_ioapic_state__bindgen_ty_1, kvm_irqchip, kvm_pit_state2,
};
use kvm_ioctls::VmFd;
use serde::{Deserialize, Serialize};
use state::{Schema, Value, not_read};

use super::mirror::{Pic, PitChannel};
use crate::kvm::{KvmError, Trying as _};

/// The interrupt controllers beside the local APICs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct IrqchipV1 {
    pic_master: Pic,
    pic_slave: Pic,
    ioapic: Ioapic,
}

/// The I/O APIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ioapic {
    base_address: u64,
    selected: u32,
    id: u32,
    requests: u32,
    redirections: [u64; 24],
}

/// The interval timer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PitV1 {
    channels: [PitChannel; 3],
    flags: u32,
}

/// The machine's time. All three were read at the same moment, with no vCPU running.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClockV1 {
    /// kvmclock, in nanoseconds.
    kvmclock_ns: u64,
    /// The host's wall clock (`CLOCK_REALTIME`), in nanoseconds since 1970.
    realtime_ns: u64,
    /// Time-stamp counter of the machine: that of any vCPU, less what the guest added to it there.
    tsc: u64,
}

/// What a host knows of how a machine's state came to it.
#[derive(Clone, Copy, Debug)]
pub struct Transit {
    /// When the state came, by a clock that nobody sets.
    pub came: Instant,
    /// How the wall clocks of both hosts differ.
    pub ahead: Ahead,
}

/// What a host knows of how far its wall clock is ahead of that of a machine's last host, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ahead {
    /// That host has not said what its clock shows.
    Unknown,
    /// It has, and no more is known of when than that it was heard.
    AtMost(i128),
    /// It has after it was asked, and before it was heard.
    Between {
        /// At least.
        least: i128,
        /// At most.
        most: i128,
    },
}

impl Transit {
    /// Of a state that comes now, from a host of which nothing is known.
    #[must_use]
    pub fn now() -> Self {
        Self { came: Instant::now(), ahead: Ahead::Unknown }
    }
}

impl Schema for IrqchipV1 {
    const KIND: &'static str = "x86-irqchip";
    const VERSION: u32 = 1;

    fn older(version: u32, _: Value) -> Result<Self, String> {
        not_read(version)
    }
}

impl Schema for PitV1 {
    const KIND: &'static str = "x86-pit";
    const VERSION: u32 = 1;

    fn older(version: u32, _: Value) -> Result<Self, String> {
        not_read(version)
    }
}

impl Schema for ClockV1 {
    const KIND: &'static str = "x86-clock";
    const VERSION: u32 = 1;

    fn older(version: u32, _: Value) -> Result<Self, String> {
        not_read(version)
    }
}

impl IrqchipV1 {
    /// Reads the controllers of `vm`.
    #[expect(unsafe_code, reason = "KVM fills in a union")]
    pub(crate) fn save(vm: &VmFd) -> Result<Self, KvmError> {
        let get = |chip_id| {
            let mut chip = kvm_irqchip { chip_id, ..Default::default() };
            vm.get_irqchip(&mut chip).trying("read an interrupt controller").map(|()| chip)
        };
        // SAFETY: KVM filled in the member that goes with the `chip_id`; both are plain integers.
        let pic = |chip: kvm_irqchip| unsafe { chip.chip.pic };
        // SAFETY: as above.
        let ioapic = unsafe { get(KVM_IRQCHIP_IOAPIC)?.chip.ioapic };
        Ok(Self {
            pic_master: pic(get(KVM_IRQCHIP_PIC_MASTER)?).into(),
            pic_slave: pic(get(KVM_IRQCHIP_PIC_SLAVE)?).into(),
            ioapic: ioapic.into(),
        })
    }

    /// Sets the controllers of `vm`.
    pub(crate) fn restore(self, vm: &VmFd) -> Result<(), KvmError> {
        let set = |chip: &kvm_irqchip| vm.set_irqchip(chip).trying("set an interrupt controller");
        for (chip_id, pic) in
            [(KVM_IRQCHIP_PIC_MASTER, self.pic_master), (KVM_IRQCHIP_PIC_SLAVE, self.pic_slave)]
        {
            let mut chip = kvm_irqchip { chip_id, ..Default::default() };
            chip.chip.pic = pic.into();
            set(&chip)?;
        }
        let mut chip = kvm_irqchip { chip_id: KVM_IRQCHIP_IOAPIC, ..Default::default() };
        chip.chip.ioapic = self.ioapic.into();
        set(&chip)
    }
}

impl PitV1 {
    /// Reads the timer of `vm`.
    pub(crate) fn save(vm: &VmFd) -> Result<Self, KvmError> {
        let pit = vm.get_pit2().trying("read the interval timer")?;
        Ok(Self { channels: pit.channels.map(Into::into), flags: pit.flags })
    }

    /// Sets the timer of `vm`.
    pub(crate) fn restore(self, vm: &VmFd) -> Result<(), KvmError> {
        let channels = self.channels.map(Into::into);
        let pit = kvm_pit_state2 { channels, flags: self.flags, ..Default::default() };
        vm.set_pit2(&pit).trying("set the interval timer")
    }
}

impl ClockV1 {
    /// Reads the clock of `vm`. `tsc` was read just before.
    pub(crate) fn save(vm: &VmFd, tsc: u64) -> Result<Self, KvmError> {
        let clock = vm.get_clock().trying("read the clock")?;
        // KVM reads both at once where the host's clock allows it.
        let at_once = clock.flags & KVM_CLOCK_REALTIME != 0;
        let realtime_ns = if at_once { clock.realtime } else { realtime_ns() };
        Ok(Self { kvmclock_ns: clock.clock, realtime_ns, tsc })
    }

    /// Sets the clock of `vm` to what it would be now had the machine not stopped, and returns the time-stamp counter
    /// for its vCPUs, which run at `tsc_khz`. Both go on by the same span, which `KVM_CLOCK_REALTIME` could not promise:
    /// it reads the wall clock a second time.
    pub(crate) fn restore(&self, vm: &VmFd, tsc_khz: u32, transit: Transit) -> Result<u64, KvmError> {
        let now_ns = realtime_ns();
        let away = self.away(now_ns, transit.came.elapsed(), transit.ahead);
        let by_wall = i128::from(now_ns) - i128::from(self.realtime_ns);
        let apart_ms = (by_wall - i128::try_from(away.as_nanos()).unwrap_or_default()) / 1_000_000;
        if apart_ms != 0 {
            tracing::warn!(
                "The wall clock of this host is {} ms {} that of the machine's last one: the machine's time goes on by what passed on the \
                 way, {} ms. Set the clocks by NTP",
                apart_ms.unsigned_abs(),
                if apart_ms > 0 { "ahead of" } else { "behind" },
                away.as_millis()
            );
        }
        let away_ns = u64::try_from(away.as_nanos()).unwrap_or(u64::MAX);
        let clock = kvm_clock_data { clock: self.kvmclock_ns.saturating_add(away_ns), ..Default::default() };
        vm.set_clock(&clock).trying("set the clock")?;
        Ok(self.tsc.wrapping_add(ticks(away, tsc_khz)))
    }

    /// How long the machine has been stopped at `now_ns`, having been on this host for `here`. The wall clocks of both hosts tell it
    /// best, way included, as long as they may be set alike; else they do less how far they are apart. What they tell is at least the
    /// time here, and little more.
    fn away(&self, now_ns: u64, here: Duration, ahead: Ahead) -> Duration {
        let by_wall = i128::from(now_ns) - i128::from(self.realtime_ns);
        let here_ns = i128::try_from(here.as_nanos()).unwrap_or(i128::MAX);
        // Both are too much by some time on the way, of the source's word or of its machine: the lesser one is less so.
        let at_most = |most: i128| most.min(by_wall.saturating_sub(here_ns));
        let apart = match ahead {
            Ahead::Unknown => 0,
            Ahead::AtMost(most) => {
                Some(at_most(most)).filter(|ahead| ahead.unsigned_abs() > SET_ALIKE.as_nanos()).unwrap_or(0)
            }
            Ahead::Between { least, most } if least <= 0 && at_most(most) >= 0 => 0,
            Ahead::Between { least, most } => i128::midpoint(least, at_most(most)),
        };
        let away = u64::try_from(by_wall.saturating_sub(apart)).ok().map(Duration::from_nanos);
        away.filter(|away| (here..=here + LONGEST_WAY).contains(away)).unwrap_or(here)
    }
}

/// Ticks of a counter of that many kHz in this time.
fn ticks(time: Duration, tsc_khz: u32) -> u64 {
    u64::try_from(time.as_nanos().saturating_mul(tsc_khz.into()) / 1_000_000).unwrap_or(u64::MAX)
}

/// Wall clocks that seem to be no further apart are taken for set alike where the other host did not wait to be asked: it takes a while
/// until what it says is heard.
const SET_ALIKE: Duration = Duration::from_millis(200);
/// A state that takes longer from host to host is believed not to: it is the wall clocks that differ.
const LONGEST_WAY: Duration = Duration::from_millis(500);

impl From<kvm_ioapic_state> for Ioapic {
    #[expect(unsafe_code, reason = "the redirections are unions")]
    fn from(kvm: kvm_ioapic_state) -> Self {
        Self {
            base_address: kvm.base_address,
            selected: kvm.ioregsel,
            id: kvm.id,
            requests: kvm.irr,
            // SAFETY: both members of the union are the same 64 bits.
            redirections: kvm.redirtbl.map(|entry| unsafe { entry.bits }),
        }
    }
}

impl From<Ioapic> for kvm_ioapic_state {
    fn from(state: Ioapic) -> Self {
        Self {
            base_address: state.base_address,
            ioregsel: state.selected,
            id: state.id,
            irr: state.requests,
            pad: 0,
            redirtbl: state.redirections.map(|bits| kvm_ioapic_state__bindgen_ty_1 { bits }),
        }
    }
}

/// The host's wall clock, in nanoseconds since 1970.
pub(crate) fn realtime_ns() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_spent_on_the_way_counts_and_never_backwards() {
        let clock = ClockV1 { kvmclock_ns: 0, realtime_ns: 1_000, tsc: 0 };
        assert_eq!(clock.away(1_500, Duration::ZERO, Ahead::Unknown), Duration::from_nanos(500));
        assert_eq!(clock.away(900, Duration::ZERO, Ahead::Unknown), Duration::ZERO);
    }

    #[test]
    fn hosts_whose_wall_clocks_differ_by_an_hour_make_the_machine_miss_what_passed_and_no_hour() {
        const HOUR_NS: u64 = 3_600_000_000_000;
        let clock = ClockV1 { kvmclock_ns: 0, realtime_ns: 2 * HOUR_NS, tsc: 0 };
        let here = Duration::from_millis(30);
        for now_ns in [HOUR_NS, 2 * HOUR_NS, 2 * HOUR_NS + 29_999_999, 3 * HOUR_NS, u64::MAX, 0] {
            assert_eq!(clock.away(now_ns, here, Ahead::Unknown), here, "{now_ns}");
        }
        // Where they are set alike they tell of the way too.
        assert_eq!(clock.away(2 * HOUR_NS + 70_000_000, here, Ahead::Unknown), Duration::from_millis(70));
    }

    #[test]
    fn hosts_that_have_compared_their_wall_clocks_count_the_way_however_far_these_are_apart() {
        const MS_NS: i128 = 1_000_000;
        let clock = ClockV1 { kvmclock_ns: 0, realtime_ns: 1 << 60, tsc: 0 };
        let ms = Duration::from_millis;
        // 30 ms here, after 40 on the way; 1 ms to be told of the source's clock.
        for apart_ms in [0, 5, -5, 199, 300, -300, 3_600_000, -3_600_000] {
            let now_ns = u64::try_from((1_i128 << 60) + (apart_ms + 70) * MS_NS).unwrap();
            let away = clock.away(now_ns, ms(30), Ahead::AtMost((apart_ms + 1) * MS_NS));
            let is_told = i128::try_from(away.as_millis()).unwrap() - 70;
            // Small differences cannot be told from the way.
            assert!(is_told.abs() <= 1.max(apart_ms.abs().min(200)), "{apart_ms}: {away:?}");
        }
        // It took long to be told, on a busy host: what the machine's own way says is nearer.
        let now_ns = (1 << 60) + 70_000_000;
        assert_eq!(clock.away(now_ns, ms(30), Ahead::AtMost(900 * MS_NS)), ms(70));
        // Somebody has set one of them meanwhile: what passed here is sure.
        let later = (1 << 60) + 3_600_000_000_000;
        assert_eq!(clock.away(later, ms(30), Ahead::AtMost(0)), ms(30));
        assert_eq!(clock.away(1 << 60, ms(30), Ahead::AtMost(i128::MIN)), ms(30));
        assert_eq!(clock.away(1 << 60, ms(30), Ahead::AtMost(i128::MAX)), ms(30));
    }

    #[test]
    fn hosts_that_have_asked_each_other_are_wrong_by_the_round_trip_at_most() {
        const MS_NS: i128 = 1_000_000;
        let clock = ClockV1 { kvmclock_ns: 0, realtime_ns: 1 << 60, tsc: 0 };
        let ms = Duration::from_millis;
        // 30 ms here after 5 on the way; what the source says is `back_ms` under way, `there_ms` after it was asked.
        for apart_ms in [0, 3, -3, 20, -20, 150, -150, 199, 3_600_000, -3_600_000] {
            for (there_ms, back_ms) in [(1, 1), (0, 8), (8, 0), (4, 4)] {
                let now_ns = u64::try_from((1_i128 << 60) + (apart_ms + 35) * MS_NS).unwrap();
                let (least, most) = ((apart_ms - there_ms) * MS_NS, (apart_ms + back_ms) * MS_NS);
                let away = clock.away(now_ns, ms(30), Ahead::Between { least, most });
                let wrong_ms = i128::try_from(away.as_millis()).unwrap() - 35;
                assert!(
                    wrong_ms.abs() <= there_ms + back_ms,
                    "{apart_ms} ms apart, {there_ms} + {back_ms}: {away:?}"
                );
            }
        }
        // Of clocks that are set by NTP nothing is taken off for a round trip over a slow line.
        let now_ns = (1 << 60) + 80_000_000;
        let (least, most) = (-5 * MS_NS, 195 * MS_NS);
        assert_eq!(clock.away(now_ns, ms(30), Ahead::Between { least, most }), ms(80));
        for (least, most) in [(i128::MIN, i128::MAX), (i128::MAX, i128::MIN), (i128::MAX, i128::MAX)] {
            let away = clock.away(now_ns, ms(30), Ahead::Between { least, most });
            assert!((ms(30)..=ms(80)).contains(&away), "{away:?}");
        }
    }
}
