use std::{
    fs::OpenOptions,
    io::{self, ErrorKind},
};

/// Why no virtual machine can run here. The messages say what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KvmError {
    /// The kernel offers no KVM.
    #[error(
        "There is no /dev/kvm: virtual machines cannot run here. Load the module kvm_intel or kvm_amd, and switch virtualisation \
         on in the firmware; inside a virtual machine, have its host allow nested virtualisation"
    )]
    Missing,
    /// It is there, but not for this user.
    #[error(
        "You may not use /dev/kvm: join its group with 'sudo usermod -aG kvm $(id -un)' and log in again, or run this as root"
    )]
    Forbidden,
    /// It is there, and cannot be opened for another reason.
    #[error("Cannot open /dev/kvm: see the kernel's log (dmesg) for what is wrong with the module kvm")]
    Broken(#[source] io::Error),
}

/// Whether virtual machines can run here.
pub(crate) fn check_kvm() -> Result<(), KvmError> {
    match OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(_) => Ok(()),
        // Without the module the device can be there and say ENXIO or ENODEV, which the standard library has no kind for.
        Err(error) => Err(match error.kind() {
            ErrorKind::NotFound => KvmError::Missing,
            ErrorKind::PermissionDenied => KvmError::Forbidden,
            _ => KvmError::Broken(error),
        }),
    }
}
