use std::{io, thread};

use kvm_ioctls::Kvm;

/// Creates a virtual machine that has nothing, and keeps it for as long as this process lives: see the first program of a host.
///
/// # Errors
/// There is no KVM here.
pub(crate) fn hold() -> io::Result<()> {
    let machine = Kvm::new().and_then(|kvm| kvm.create_vm());
    let _machine = machine.map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
    println!("held=1");
    loop {
        thread::park();
    }
}
