//! Taps: each is a network card of one VMM, and a port of a bridge. A tap is made for a VMM that is about to start, which inherits it, and goes
//! when that process does, however it ends: none is ever left over.

#![expect(unsafe_code, reason = "taps and bridges are driven by ioctls")]

use std::{
    ffi::{c_int, c_ulong, c_void},
    fs, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    path::Path,
};

use objects::is_interface_name;
use rustix::{
    fs::{Mode, OFlags},
    ioctl::{Ioctl, IoctlOutput, Opcode, ioctl},
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
};

/// `TUNSETIFF` (linux/if_tun.h).
const TUNSETIFF: Opcode = 0x4004_54ca;
/// Ioctls of sockets (linux/sockios.h).
const SIOCGIFFLAGS: Opcode = 0x8913;
const SIOCSIFFLAGS: Opcode = 0x8914;
const SIOCSIFMTU: Opcode = 0x8922;
const SIOCGIFINDEX: Opcode = 0x8933;
const SIOCBRADDIF: Opcode = 0x89a2;
/// `IFF_TAP`, `IFF_NO_PI`, `IFF_VNET_HDR`: frames with the header of virtio before them, which is what a VMM takes.
const TAP: u16 = 0x0002 | 0x1000 | 0x4000;
/// `IFF_TUN_EXCL`: an interface that is there already is another's.
const EXCLUSIVE: u16 = 0x8000;
const IFF_UP: u16 = 1;
/// `IFNAMSIZ`.
const NAME_BYTES: usize = 16;

/// Where the kernel lists interfaces.
const INTERFACES: &str = "/sys/class/net";

/// A tap that is open, for a VMM to inherit.
#[derive(Debug)]
pub(crate) struct Tap {
    fd: OwnedFd,
}

impl Tap {
    /// Makes a tap of that name, as a port of a bridge.
    ///
    /// # Errors
    /// There is no such bridge, or this process may not: a sentence.
    pub(crate) fn open(name: &str, bridge: &str) -> io::Result<Self> {
        let wrong = |what: &str, error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"));
        if !is_bridge(bridge) {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("There is no bridge {bridge} on this node"),
            ));
        }
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::open("/dev/net/tun", flags, Mode::empty());
        let fd = fd.map_err(|errno| {
            wrong("Cannot open /dev/net/tun, with which network cards are made", errno.into())
        })?;
        request(&fd, TUNSETIFF, Request::flags(name, TAP | EXCLUSIVE)).map_err(|error| {
            wrong("Cannot make a tap, for which the agent runs as root or has CAP_NET_ADMIN", error)
        })?;
        join(name, bridge)
            .map_err(|error| wrong(&format!("Cannot make a tap a port of bridge {bridge}"), error))?;
        Ok(Self { fd })
    }

    /// The number under which a process inherits it.
    pub(crate) fn number(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The name of a tap: of a VMM's folder, and of the card's position. Always the same, so that its counters are found.
pub(crate) fn name(folder: &Path, index: usize) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in folder.as_os_str().as_encoded_bytes() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("wb{:012x}{}", hash >> 16, index % 10)
}

/// The bridges of this host whose names can be said in objects.
pub(crate) fn bridges() -> Vec<String> {
    let names = fs::read_dir(INTERFACES).into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| is_interface_name(name) && is_bridge(name)).collect()
}

fn is_bridge(name: &str) -> bool {
    is_interface_name(name) && Path::new(INTERFACES).join(name).join("bridge").is_dir()
}

fn join(name: &str, bridge: &str) -> io::Result<()> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // The host is no neighbour of its guests by this interface. Where there is no IPv6 there is nothing to switch off.
    let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
    // A bridge has the smallest MTU of its ports: a tap shall not be what makes it smaller.
    let mtu = fs::read_to_string(Path::new(INTERFACES).join(bridge).join("mtu"))?;
    if let Ok(mtu) = mtu.trim().parse() {
        request(&socket, SIOCSIFMTU, Request::number(name, mtu))?;
    }
    let index = request(&socket, SIOCGIFINDEX, Request::number(name, 0))?.as_number();
    request(&socket, SIOCBRADDIF, Request::number(bridge, index))?;
    let flags = request(&socket, SIOCGIFFLAGS, Request::flags(name, 0))?.as_flags();
    request(&socket, SIOCSIFFLAGS, Request::flags(name, flags | IFF_UP)).map(drop)
}

/// `struct ifreq`: the name of an interface and 24 bytes whose meaning the request says.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Request {
    name: [u8; NAME_BYTES],
    value: [u8; 24],
}

impl Request {
    fn new(name: &str, value: &[u8]) -> Self {
        let mut request = Self { name: [0; NAME_BYTES], value: [0; 24] };
        // Names are shorter, by `is_interface_name` and `name`: one that is not is cut, and is no interface's.
        for (to, from) in request.name.iter_mut().zip(name.bytes().take(NAME_BYTES - 1)) {
            *to = from;
        }
        for (to, from) in request.value.iter_mut().zip(value) {
            *to = *from;
        }
        request
    }

    fn flags(name: &str, flags: u16) -> Self {
        Self::new(name, &flags.to_ne_bytes())
    }

    fn number(name: &str, number: c_int) -> Self {
        Self::new(name, &number.to_ne_bytes())
    }

    fn as_flags(self) -> u16 {
        u16::from_ne_bytes([self.value[0], self.value[1]])
    }

    fn as_number(self) -> c_int {
        c_int::from_ne_bytes([self.value[0], self.value[1], self.value[2], self.value[3]])
    }
}

/// Asks the kernel, and returns what it wrote.
fn request(fd: impl AsFd, opcode: Opcode, request: Request) -> io::Result<Request> {
    // SAFETY: each of the opcodes above reads and writes one ifreq, which `Asked` has.
    let written = unsafe { ioctl(fd, Asked { opcode, request }) }?;
    Ok(written)
}

struct Asked {
    opcode: Opcode,
    request: Request,
}

// SAFETY: the opcodes are those of this file, for each of which the kernel reads and writes an ifreq: 40 bytes, as `Request` has them.
unsafe impl Ioctl for Asked {
    type Output = Request;

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (&raw mut self.request).cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, pointer: *mut c_void) -> rustix::io::Result<Request> {
        // SAFETY: the pointer is that of `as_ptr`, to a whole request.
        Ok(unsafe { *pointer.cast::<Request>() })
    }
}

const _: () = assert!(size_of::<Request>() == 40 && size_of::<c_ulong>() == 8);

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn names_are_those_of_interfaces_and_tell_machines_apart() {
        let names = [
            name(Path::new("/a/vmms/x"), 0),
            name(Path::new("/a/vmms/x"), 1),
            name(Path::new("/b/vmms/x"), 0),
        ];
        for (index, name) in names.iter().enumerate() {
            assert!(is_interface_name(name), "{name}");
            assert!(!names[..index].contains(name), "{names:?}");
        }
    }

    #[test]
    fn a_tap_is_a_port_of_its_bridge_and_goes_with_its_descriptor() {
        let bridge = format!("wt{}", std::process::id());
        let ip = |arguments: &str| {
            let done = Command::new("ip").args(arguments.split(' ')).output();
            done.is_ok_and(|done| done.status.success())
        };
        if !ip(&format!("link add {bridge} mtu 1400 type bridge")) {
            eprintln!(
                "SKIPPED a_tap_is_a_port_of_its_bridge_and_goes_with_its_descriptor: IT NEEDS ROOT AND BRIDGES"
            );
            return;
        }
        let tap_name = name(Path::new("/tests").join(&bridge).as_path(), 0);
        let folder = Path::new(INTERFACES).join(&tap_name);
        let outcome = Tap::open(&tap_name, &bridge).map(|tap| {
            let master = fs::read_link(folder.join("master")).unwrap_or_default();
            let mtu = fs::read_to_string(folder.join("mtu")).unwrap_or_default();
            let again = Tap::open(&tap_name, &bridge).is_err();
            drop(tap);
            (master.file_name().map(|name| name.to_string_lossy().into_owned()), mtu, again, folder.exists())
        });
        let is_listed = bridges().contains(&bridge);
        assert!(ip(&format!("link del {bridge}")));
        let (master, mtu, is_exclusive, is_left) = outcome.unwrap();
        assert_eq!((master.as_deref(), mtu.trim()), (Some(bridge.as_str()), "1400"));
        assert!(is_exclusive && !is_left && is_listed);
        let missing = Tap::open(&tap_name, &bridge).unwrap_err();
        assert!(missing.to_string().contains("no bridge"), "{missing}");
    }
}
