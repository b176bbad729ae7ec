//! How much memory the kernel may pin for this process to send it without a copy.

use std::path::Path;

use rustix::process::{Resource, getrlimit};

/// For each channel: what is on the way on a fast network, and what still pays.
const MOST: u64 = 8 << 20;
const LEAST: u64 = 256 << 10;
/// `CAP_IPC_LOCK` (capabilities(7)): a process that has it in the first user namespace may lock as much as it likes. One that has it in
/// another, as in a rootless container, may not (user_namespaces(7)).
const IPC_LOCK: u32 = 14;
/// The first user namespace (`PROC_USER_INIT_INO`, linux/proc_ns.h).
const FIRST_NAMESPACE: &str = "user:[4026531837]";

/// What this process may have pinned, as it was at its start; `None` if nothing limits it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pinned(Option<u64>);

impl Pinned {
    /// Of this process.
    pub(super) fn of_this_process() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        // What cannot be read is taken for what has a limit.
        let namespace = std::fs::read_link("/proc/self/ns/user").unwrap_or_default();
        Self(getrlimit(Resource::Memlock).current.filter(|_| !may_lock(&status, &namespace)))
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
             CAP_IPC_LOCK, which does not count in a rootless container, or use fewer channels",
            (LEAST / 3 * 4 * channels) >> 10,
            self.0.unwrap_or_default() >> 10
        ))
    }
}

fn may_lock(status: &str, namespace: &Path) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    namespace == Path::new(FIRST_NAMESPACE) && bits.is_some_and(|bits| bits & 1 << IPC_LOCK != 0)
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
        let (first, has_it) = (Path::new(FIRST_NAMESPACE), "CapEff:\t0000000000004000\n");
        assert!(may_lock(&format!("Name:\tx\nCapPrm:\t0000000000000000\n{has_it}"), first));
        assert!(!may_lock("CapEff:\t000001ffffffbfff\n", first));
        assert!(!may_lock("CapEff:\tnonsense\n", first) && !may_lock("", first));
        // Root of a rootless container has all capabilities, and the limit all the same.
        for namespace in ["user:[4026532837]", ""] {
            assert!(!may_lock(has_it, Path::new(namespace)));
        }
    }
}
