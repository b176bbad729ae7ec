//! How much memory the kernel may pin for this process to send it without a copy.

use rustix::process::{Resource, getrlimit};

/// For each channel: what is on the way on a fast network, and what still pays.
const MOST: u64 = 8 << 20;
const LEAST: u64 = 256 << 10;
/// `CAP_IPC_LOCK` (capabilities(7)): who has it may lock what he likes.
const IPC_LOCK: u32 = 14;

/// What this process may have pinned, as it was at its start; `None` if nothing limits it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pinned(Option<u64>);

impl Pinned {
    /// Of this process.
    pub(super) fn of_this_process() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self(getrlimit(Resource::Memlock).current.filter(|_| !may_lock(&status)))
    }

    /// Bytes for a migration over so many channels.
    ///
    /// # Errors
    /// That is too little to be of use: what to do about it.
    pub(super) fn for_channels(self, channels: u16) -> Result<u64, String> {
        let channels = u64::from(channels.max(1));
        // The kernel counts a page or two for each send that are not there, and other processes of the same user.
        let share = self.0.map_or(MOST, |limit| limit / 4 * 3 / channels);
        if share >= LEAST {
            return Ok(share.min(MOST) * channels);
        }
        Err(format!(
            "Capability 'zero-copy-send' has the kernel pin what the network has not taken yet, {} KiB at least for {channels} channels, \
             and this process may pin {} KiB (RLIMIT_MEMLOCK): raise that before it starts (ulimit -l, LimitMEMLOCK=), give it \
             CAP_IPC_LOCK, or use fewer channels",
            (LEAST / 3 * 4 * channels) >> 10,
            self.0.unwrap_or_default() >> 10
        ))
    }
}

fn may_lock(status: &str) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    bits.is_some_and(|bits| bits & 1 << IPC_LOCK != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_shared_by_the_channels_and_one_that_is_too_low_says_what_to_do() {
        assert_eq!(Pinned(None).for_channels(16), Ok(16 * MOST));
        assert_eq!(Pinned(Some(u64::MAX)).for_channels(2), Ok(2 * MOST));
        assert_eq!(Pinned(Some(8 << 20)).for_channels(4), Ok(6 << 20));
        let refused = Pinned(Some(8 << 20)).for_channels(64).unwrap_err();
        assert!(
            refused.contains("21845 KiB at least for 64 channels") && refused.contains("8192 KiB"),
            "{refused}"
        );
        assert!(Pinned(Some(0)).for_channels(0).is_err());
    }

    #[test]
    fn who_may_lock_memory_is_read_from_what_the_kernel_says() {
        assert!(may_lock("Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t0000000000004000\n"));
        assert!(!may_lock("CapEff:\t000001ffffffbfff\n"));
        assert!(!may_lock("CapEff:\tnonsense\n") && !may_lock(""));
    }
}
