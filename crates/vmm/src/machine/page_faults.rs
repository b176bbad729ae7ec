use std::{fs::File, io};

use config::UserfaultDevice;
use ram::{UserfaultError, Userfaultfd};

use super::resources;

/// How this process comes to a userfaultfd, which a machine needs that runs before all of its memory is here. Found out before the
/// process confines itself: afterwards it may neither open the device nor make the system call.
#[derive(Debug)]
pub enum PageFaults {
    /// /dev/userfaultfd, which makes as many as are asked for.
    Device(File),
    /// One that the system call made. Machines come one after the other, so that it serves all of them.
    One(Userfaultfd),
    /// None is to be had: why, and what can be done.
    Refused(String),
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
    /// By the device that the process inherits, if it does, or as [`Self::open`].
    #[must_use]
    pub fn of(inherited: Option<UserfaultDevice>) -> Self {
        let Some(fd) = inherited.map(UserfaultDevice::raw) else { return Self::open() };
        let device = match resources::inherited(fd) {
            Ok(device) => File::from(device),
            Err(error) => return Self::Refused(engine::chain(&error)),
        };
        match Userfaultfd::from_device(&device) {
            Ok(_) => Self::Device(device),
            Err(error) => Self::Refused(format!(
                "Descriptor {fd} of --userfaultfd makes no userfaultfd: open /dev/userfaultfd for reading and writing, and leave it \
                 open for this process ({})",
                engine::chain(&error)
            )),
        }
    }

    /// Looks for one. To be called before the process confines itself: a confined one may make no such system call, and ends.
    #[must_use]
    pub fn open() -> Self {
        if let Ok(device) = File::options().read(true).write(true).open("/dev/userfaultfd") {
            return Self::Device(device);
        }
        Userfaultfd::open().map_or_else(|error| Self::Refused(error.to_string()), Self::One)
    }

    /// One for a machine.
    ///
    /// # Errors
    /// This process may not use it, or the kernel lacks something: what can be done about it.
    pub fn userfault(&self) -> Result<Userfaultfd, PageFaultError> {
        match self {
            Self::Device(device) => Ok(Userfaultfd::from_device(device)?),
            Self::One(userfault) => userfault.try_clone().map_err(PageFaultError::Duplicate),
            Self::Refused(reason) => Err(PageFaultError::Refused(reason.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

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
    fn a_device_that_was_left_open_serves_and_another_file_does_not() {
        let given = |file: &File| PageFaults::of(Some(format!("fd={}", file.as_raw_fd()).parse().unwrap()));
        let refused = given(&File::open("/dev/null").unwrap()).userfault().unwrap_err().to_string();
        assert!(refused.contains("--userfaultfd") && refused.contains("/dev/userfaultfd"), "{refused}");
        let device = File::options().read(true).write(true).open("/dev/userfaultfd");
        let Ok(device) = device else { return eprintln!("SKIPPED: /dev/userfaultfd cannot be opened here") };
        let page_faults = given(&device);
        drop(device);
        page_faults.userfault().unwrap();
    }

    #[test]
    fn what_is_not_to_be_had_is_told_with_what_can_be_done() {
        let source = io::ErrorKind::PermissionDenied.into();
        let permission = UserfaultError::Permission { source };
        let refused = PageFaults::Refused(permission.to_string()).userfault().unwrap_err();
        let told = refused.to_string();
        for remedy in ["vm.unprivileged_userfaultfd", "CAP_SYS_PTRACE", "/dev/userfaultfd", "anew"] {
            assert!(told.contains(remedy), "{told}");
        }
    }
}
