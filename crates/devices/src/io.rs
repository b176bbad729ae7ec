use std::os::fd::RawFd;

/// What to wait for on a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// The descriptor can be read.
    Read,
    /// The descriptor can be read or written.
    ReadWrite,
}

/// A descriptor that an I/O thread watches on behalf of a device.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    /// Owned by the device, open for as long as the device lives.
    pub fd: RawFd,
    /// What to wait for. Watches are **edge-triggered**: the device reads until `EAGAIN`, or remembers that it did not.
    pub interest: Interest,
    /// Handed back to [`IoDevice::ready`].
    pub token: u32,
}

/// A device that works on host descriptors (queue notifications, taps, sockets). Called on one I/O thread, with the
/// device locked.
pub trait IoDevice: Send {
    /// The descriptors to watch. Asked once, after the device was made; the set does not change while it lives.
    fn watches(&self) -> Vec<Watch>;

    /// The descriptor of the watch with this `token` is ready. Does the work that is there and returns; it may block for
    /// as long as a disk takes, but not for a peer.
    fn ready(&mut self, token: u32);

    /// Looks at everything as if each watch had fired: called once when a machine resumes, because a request may be
    /// pending whose notification was consumed before the machine was saved.
    fn kick(&mut self);
}
