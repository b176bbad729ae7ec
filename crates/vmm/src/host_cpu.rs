//! What this host can show a machine of its processor, for whoever looks for what several hosts have in common.

use cpu::HostCpu;
use kvm_ioctls::{Cap, Kvm};

use crate::{
    arch,
    kvm::{KvmError, Trying as _},
};

/// As JSON, for `whimbrel cpu-baseline`.
///
/// # Errors
/// KVM cannot be used.
pub fn host_cpu() -> Result<String, KvmError> {
    let kvm = Kvm::new().trying("open /dev/kvm")?;
    let cpuid = arch::for_guest(&arch::supported(&kvm)?, 1, kvm.check_extension(Cap::TscDeadlineTimer));
    let host = HostCpu {
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        vendor: arch::vendor(&cpuid),
        brand: arch::brand(&cpuid),
        features: arch::features(&cpuid).into_iter().map(str::to_owned).collect(),
    };
    // Text by text: there is nothing in it that could not be written.
    Ok(serde_json::to_string_pretty(&host).unwrap_or_default())
}
