#![expect(unsafe_code, reason = "the tun driver is driven by ioctls")]

use std::{
    ffi::{c_uint, c_ulong},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, netdevice::name_to_index, socket_with},
};

use super::HEADER_BYTES;

/// What the tap does not have to compute before it hands a packet over, when the guest can (linux/if_tun.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offloads(pub(super) c_uint);

impl Offloads {
    pub(super) const NONE: Self = Self(0);
    /// Checksums and segmentation of TCP.
    pub(super) const ALL: Self =
        Self(libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN);
}

/// A tap interface of the host, ready for a virtio network device.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    name: String,
    can_offload: bool,
    /// It was said that the interface is gone.
    gone: AtomicBool,
}

/// Why a tap cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The tun driver is missing.
    #[error("Cannot open /dev/net/tun: load the 'tun' module, and run with the right to use it")]
    Driver(#[source] io::Error),
    /// Not a name of an interface.
    #[error("'{0}' is not the name of an interface: use 1 to 15 characters without spaces and slashes")]
    Name(String),
    /// There is none of this name. One that is made by a mistake in typing is in no network.
    #[error(
        "There is no interface '{name}': check the name, or make the tap (ip tuntap add dev {name} mode tap user $USER; ip link set {name} \
         up), and put it into its bridge (ip link set {name} master BRIDGE)"
    )]
    Missing {
        /// Name of the interface.
        name: String,
    },
    /// The interface cannot be opened.
    #[error(
        "Cannot open tap '{name}': {advice} (ip tuntap add dev {name} mode tap user $USER; ip link set {name} up)"
    )]
    Attach {
        /// Name of the interface.
        name: String,
        /// What to do about it.
        advice: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The descriptor that was given is something else.
    #[error("Descriptor {fd} is not a tap: pass one that was opened from /dev/net/tun")]
    NotATap {
        /// The descriptor.
        fd: RawFd,
        /// What the kernel said.
        source: io::Error,
    },
    /// The descriptor is a tap with other flags.
    #[error(
        "Descriptor {fd} is an interface without IFF_TAP, IFF_NO_PI and IFF_VNET_HDR: open it with all three"
    )]
    Flags {
        /// The descriptor.
        fd: RawFd,
    },
    /// The tap does not take the packet header of virtio.
    #[error("Cannot set up tap '{name}' for virtio packets")]
    Setup {
        /// Name of the interface.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Flags of a tap that carries the virtio header and nothing else before each frame.
const FLAGS: libc::c_short = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;

impl Tap {
    /// Opens the tap `name`, which must be there.
    ///
    /// # Errors
    /// There is no such tap, it is in use, or this process may not use it.
    pub fn open(name: &str) -> Result<Self, TapError> {
        request(name)?;
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
        if socket.and_then(|socket| name_to_index(socket, name)) == Err(Errno::NODEV) {
            return Err(TapError::Missing { name: name.into() });
        }
        Self::open_or_make(name)
    }

    /// Opens the tap `name`, which the kernel makes if it is not there.
    pub(super) fn open_or_make(name: &str) -> Result<Self, TapError> {
        let mut request = request(name)?;
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::open(c"/dev/net/tun", flags, Mode::empty())
            .map_err(|errno| TapError::Driver(errno.into()))?;
        request.ifr_ifru.ifru_flags = FLAGS;
        // SAFETY: TUNSETIFF reads and writes one ifreq, which `request` is.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) }).map_err(
            |source| {
                let advice = match source.raw_os_error() {
                    Some(libc::EBUSY) => "another process uses it: give each machine a tap of its own",
                    Some(libc::EPERM) => "make it beforehand for this user, or run as root",
                    Some(libc::EINVAL) => {
                        "an interface of another kind has this name, or a tap of many queues (multi_queue): make a tap of one queue"
                    }
                    _ => "make it beforehand",
                };
                TapError::Attach { name: name.into(), advice, source }
            },
        )?;
        Self::set_up(fd, interface_name(&request))
    }

    /// Uses a tap that another program opened.
    ///
    /// # Errors
    /// It is not a tap of the right kind.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, TapError> {
        let number = fd.as_raw_fd();
        let not_a_tap = |source: io::Error| TapError::NotATap { fd: number, source };
        let mut request = empty_request();
        // SAFETY: TUNGETIFF writes one ifreq, which `request` is.
        check(unsafe { libc::ioctl(number, libc::TUNGETIFF, &raw mut request) }).map_err(not_a_tap)?;
        // SAFETY: TUNGETIFF has just set the flags of the union.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        if flags & FLAGS != FLAGS {
            return Err(TapError::Flags { fd: number });
        }
        let status = rustix::fs::fcntl_getfl(&fd).map_err(|errno| not_a_tap(errno.into()))?;
        rustix::fs::fcntl_setfl(&fd, status | OFlags::NONBLOCK).map_err(|errno| not_a_tap(errno.into()))?;
        Self::set_up(fd, interface_name(&request))
    }

    /// Name of the interface on the host.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the interface of this name is up, where that can be found out. Of a tap that another program opened it may be another one.
    #[must_use]
    pub fn is_up(&self) -> Option<bool> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None).ok()?;
        let mut request = request(&self.name).ok()?;
        // SAFETY: SIOCGIFFLAGS reads and writes one ifreq, which `request` is.
        check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) }).ok()?;
        // SAFETY: SIOCGIFFLAGS has just set the flags of the union.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        Some(libc::c_int::from(flags) & libc::IFF_UP != 0)
    }

    /// Sends a frame to the host's network, as if it came from the guest.
    ///
    /// # Errors
    /// As write(2): `EIO` if the interface is down.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        let packet = [&[0; HEADER_BYTES], frame].concat();
        rustix::io::write(&self.fd, &packet)?;
        Ok(())
    }

    /// Says so, once, where this error means that the interface was taken away: the guest sees nothing of that.
    pub(super) fn note(&self, error: &io::Error) {
        if error.raw_os_error() == Some(libc::EBADFD) && !self.gone.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "Tap '{}' is gone: the guest sends and hears nothing any more. Make it anew, and move the machine or start it again",
                self.name
            );
        }
    }

    /// Whether it was found that the interface was taken away.
    #[cfg(test)]
    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// The tap leaves checksums and segmentation to a guest that can do them.
    pub(super) fn can_offload(&self) -> bool {
        self.can_offload
    }

    pub(super) fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TUNSETOFFLOAD, c_ulong::from(offloads.0)) })
    }

    fn set_up(fd: OwnedFd, name: String) -> Result<Self, TapError> {
        let bytes = HEADER_BYTES as libc::c_int;
        // SAFETY: TUNSETVNETHDRSZ reads one int.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const bytes) })
            .map_err(|source| TapError::Setup { name: name.clone(), source })?;
        let mut tap = Self { fd, name, can_offload: false, gone: AtomicBool::new(false) };
        // Asked once: what the kernel takes now it takes when the guest wants it. No guest means no offloads.
        tap.can_offload = tap.set_offloads(Offloads::ALL).is_ok();
        tap.set_offloads(Offloads::NONE)
            .map_err(|source| TapError::Setup { name: tap.name.clone(), source })?;
        Ok(tap)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn empty_request() -> libc::ifreq {
    // SAFETY: an ifreq is plain integers and a union of such; all zeroes is one of its values.
    unsafe { std::mem::zeroed() }
}

fn request(name: &str) -> Result<libc::ifreq, TapError> {
    let mut request = empty_request();
    let possible = !name.is_empty()
        && name.len() < request.ifr_name.len()
        && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
    if !possible {
        return Err(TapError::Name(name.into()));
    }
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = byte as libc::c_char;
    }
    Ok(request)
}

fn interface_name(request: &libc::ifreq) -> String {
    request.ifr_name.iter().take_while(|byte| **byte != 0).map(|byte| char::from(*byte as u8)).collect()
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
