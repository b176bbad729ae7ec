use std::{fs::File, io};

use ram::{UserfaultError, Userfaultfd};

/// How this process comes to a userfaultfd, which a machine needs that runs before all of its memory is here. Found out before the
/// process confines itself: afterwards it may neither open the device nor make the system call.
#[derive(Debug)]
pub enum PageFaults {
    /// /dev/userfaultfd, which makes as many as are asked for.
    Device(File),
    /// One that the system call made. Machines come one after the other, so that it serves all of them.
    One(Userfaultfd),
    /// None is to be had.
    Refused(UserfaultError),
}

/// Why there is no userfaultfd for a machine.
#[derive(Debug, thiserror::Error)]
pub enum PageFaultError {
    /// There was none when this process began.
    #[error("{0}; then start this process anew")]
    Refused(String),
    /// The kernel refuses.
    #[error(transparent)]
    Userfault(#[from] UserfaultError),
    /// There are no more descriptors.
    #[error("The userfaultfd of this process cannot be duplicated")]
    Duplicate(#[source] io::Error),
}

impl PageFaults {
    /// Looks for one. To be called before the process confines itself: a confined one may make no such system call, and ends.
    #[must_use]
    pub fn open() -> Self {
        if let Ok(device) = File::options().read(true).write(true).open("/dev/userfaultfd") {
            return Self::Device(device);
        }
        Userfaultfd::open().map_or_else(Self::Refused, Self::One)
    }

    /// One for a machine.
    ///
    /// # Errors
    /// This process may not use it, or the kernel lacks something: what can be done about it.
    pub fn userfault(&self) -> Result<Userfaultfd, PageFaultError> {
        match self {
            Self::Device(device) => Ok(Userfaultfd::from_device(device)?),
            Self::One(userfault) => userfault.try_clone().map_err(PageFaultError::Duplicate),
            Self::Refused(error) => Err(PageFaultError::Refused(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_had_before_the_process_confined_itself_serves_one_machine_after_the_other() {
        let Ok(one) = Userfaultfd::open() else { return eprintln!("SKIPPED: there is no userfaultfd here") };
        let by_any_means = [PageFaults::One(one), PageFaults::open()];
        for page_faults in by_any_means {
            let first = page_faults.userfault().unwrap();
            page_faults.userfault().unwrap();
            drop(first);
            page_faults.userfault().unwrap();
        }
    }

    #[test]
    fn what_is_not_to_be_had_is_told_with_what_can_be_done() {
        let source = io::ErrorKind::PermissionDenied.into();
        let refused = PageFaults::Refused(UserfaultError::Permission { source }).userfault().unwrap_err();
        let told = refused.to_string();
        for remedy in ["vm.unprivileged_userfaultfd", "CAP_SYS_PTRACE", "/dev/userfaultfd", "anew"] {
            assert!(told.contains(remedy), "{told}");
        }
    }
}
