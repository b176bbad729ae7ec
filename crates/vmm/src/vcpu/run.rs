use std::sync::atomic::Ordering;

use kvm_bindings::KVM_EXIT_DIRTY_RING_FULL;
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::{Shared, exit};
use crate::{bus::Buses, kvm::DirtyRings};

/// Why a vCPU left the guest for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It was asked to.
    Asked,
    /// The guest shut the processor down (triple fault), which resets a PC. Says where.
    Shutdown(String),
    /// KVM cannot go on with it. Says why.
    Failed(String),
}

/// What follows an exit.
enum Next {
    /// Back into the guest.
    Enter,
    /// KVM was interrupted before it entered the guest.
    Interrupted,
    /// Stop here.
    Leave(End),
}

/// Runs the guest until it is asked to stop, or cannot go on. On return no instruction is half done.
pub(super) fn run(fd: &mut VcpuFd, shared: &Shared, buses: &Buses, rings: Option<&DirtyRings>) -> End {
    // Tells a guest that keeps time by kvmclock that it was stopped, so that its watchdogs do not bite; fails for others.
    let _ = fd.kvmclock_ctrl();
    shared.immediate_exit.set(false);
    // The flags come after: who sets one sets `immediate_exit` again after it, see `kick`.
    while !shared.stop.load(Ordering::SeqCst) {
        shared.rest.take(&shared.stop);
        match step(fd, buses, rings) {
            Next::Enter => {}
            Next::Interrupted => shared.immediate_exit.set(false),
            Next::Leave(end) => return end,
        }
    }
    complete(fd, shared, buses, rings)
}

/// Finishes the instruction whose port or MMIO access was served last: KVM does that on the next entry, and an
/// instruction of several accesses takes several. With `immediate_exit` set, KVM comes back before it runs another.
fn complete(fd: &mut VcpuFd, shared: &Shared, buses: &Buses, rings: Option<&DirtyRings>) -> End {
    shared.immediate_exit.set(true);
    loop {
        match step(fd, buses, rings) {
            Next::Enter => {}
            Next::Interrupted => return End::Asked,
            Next::Leave(end) => return end,
        }
    }
}

fn step(fd: &mut VcpuFd, buses: &Buses, rings: Option<&DirtyRings>) -> Next {
    let failed = |why: String| Next::Leave(End::Failed(why));
    match fd.run() {
        Ok(VcpuExit::IoIn(..) | VcpuExit::IoOut(..)) => {
            serve_ports(&mut exit::port_access(fd), buses);
            Next::Enter
        }
        Ok(VcpuExit::MmioRead(address, data)) => {
            buses.mmio.read(address, data);
            Next::Enter
        }
        Ok(VcpuExit::MmioWrite(address, data)) => {
            buses.mmio.write(address, data);
            Next::Enter
        }
        Ok(VcpuExit::Unsupported(KVM_EXIT_DIRTY_RING_FULL)) => {
            if let Some(rings) = rings {
                rings.collect();
            }
            Next::Enter
        }
        Ok(VcpuExit::Intr) => Next::Interrupted,
        Ok(VcpuExit::IrqWindowOpen | VcpuExit::SetTpr | VcpuExit::IoapicEoi(_) | VcpuExit::Hlt) => {
            Next::Enter
        }
        // KVM_SYSTEM_EVENT_* are reports of guests that ask by hypercall; on x86 only a crash is reported so.
        Ok(VcpuExit::Shutdown | VcpuExit::SystemEvent(..)) => Next::Leave(End::Shutdown(exit::place(fd))),
        Ok(VcpuExit::InternalError) => failed(format!("{}: {}", exit::internal_error(fd), exit::place(fd))),
        Ok(VcpuExit::FailEntry(reason, cpu)) => {
            failed(format!("the processor refused to enter the guest (reason {reason:#x}, CPU {cpu})"))
        }
        Ok(other) => failed(format!("KVM returned an exit that is not expected: {other:?}")),
        Err(error) => match error.errno() {
            // EAGAIN: a processor that waited for its start-up interrupt has got it.
            libc::EAGAIN => Next::Enter,
            libc::EINTR => Next::Interrupted,
            _ => failed(format!("KVM_RUN failed: {error}")),
        },
    }
}

/// Serves the accesses one by one: a device sees a string instruction as the processor makes it.
fn serve_ports(access: &mut exit::PortAccess<'_>, buses: &Buses) {
    for data in access.data.chunks_exact_mut(access.size) {
        if access.write {
            buses.ports.write(access.port.into(), data);
        } else {
            buses.ports.read(access.port.into(), data);
        }
    }
}
