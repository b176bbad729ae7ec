//! A network for tests: a tap in a network namespace of the test's thread, and a socket on its other side.
#![expect(unsafe_code, reason = "network namespaces and packet sockets are system calls")]

use std::{
    fs::File,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use super::Tap;

/// "IEEE Std 802 - Local Experimental Ethertype 1": what tests send. The kernel sends frames of its own.
const ETHERTYPE: u16 = 0x88b5;
pub(crate) const RARP: u16 = 0x8035;

/// The host's side of a tap.
pub(crate) struct Wire {
    socket: OwnedFd,
    pub(crate) name: String,
}

/// A tap that is up and its other side. None, with a line that says so, without the right to make one.
pub(crate) fn wire() -> Option<(Tap, Wire)> {
    // SAFETY: unshare changes only which network this thread sees.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        let error = std::io::Error::last_os_error();
        eprintln!("SKIPPED: network tests need the right to make a network namespace: {error}");
        return None;
    }
    // Or the kernel talks on the new interface. Without IPv6 there is nothing to be silenced.
    let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("wh{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let tap = match Tap::open_or_make(&name) {
        Ok(tap) => tap,
        Err(error) => {
            eprintln!("SKIPPED: network tests need a tap: {error}");
            return None;
        }
    };
    set_up(&name, true);
    let wire = Wire { socket: packet_socket(&name), name };
    Some((tap, wire))
}

impl Wire {
    /// Sends a frame to the guest.
    pub(crate) fn send(&self, payload: &[u8]) {
        let sent = rustix::io::write(&self.socket, &frame(payload)).unwrap();
        assert_eq!(sent, payload.len() + 14);
    }

    /// The payload of the next frame of a test, as the host receives it.
    pub(crate) fn receive(&self) -> Vec<u8> {
        self.receive_of(ETHERTYPE).split_off(14)
    }

    /// The next frame of this type. Fails if none comes.
    pub(crate) fn receive_of(&self, ethertype: u16) -> Vec<u8> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if let Some(frame) = self.next().filter(|frame| frame[12..14] == ethertype.to_be_bytes()) {
                return frame;
            }
        }
        panic!("no frame came");
    }

    /// No frame of a test is there.
    pub(crate) fn is_silent(&self) -> bool {
        std::iter::from_fn(|| self.next()).all(|frame| frame[12..14] != ETHERTYPE.to_be_bytes())
    }

    pub(crate) fn set_up(&self, up: bool) {
        set_up(&self.name, up);
    }

    fn next(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 70_000];
        let count = rustix::io::read(&self.socket, &mut frame).ok()?;
        frame.truncate(count);
        Some(frame)
    }
}

/// An Ethernet frame that is broadcast.
pub(crate) fn frame(payload: &[u8]) -> Vec<u8> {
    [[0xff; 6].as_slice(), &[2, 0, 0, 0, 0, 1], &ETHERTYPE.to_be_bytes(), payload].concat()
}

fn socket(domain: i32, protocol: u16) -> OwnedFd {
    let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let kind = if domain == libc::AF_PACKET { kind } else { libc::SOCK_DGRAM };
    // SAFETY: socket has no preconditions.
    let fd = unsafe { libc::socket(domain, kind, i32::from(protocol.to_be())) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the descriptor was just made and belongs to nobody else.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn packet_socket(name: &str) -> OwnedFd {
    let socket = socket(libc::AF_PACKET, libc::ETH_P_ALL as u16);
    let name = std::ffi::CString::new(name).unwrap();
    // SAFETY: a sockaddr_ll is plain integers; if_nametoindex and bind read the values that are passed.
    let result = unsafe {
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = libc::if_nametoindex(name.as_ptr()) as i32;
        let bytes = size_of::<libc::sockaddr_ll>() as u32;
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), bytes)
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    socket
}

fn set_up(name: &str, up: bool) {
    let socket = socket(libc::AF_INET, 0);
    // SAFETY: an ifreq is plain integers; SIOCSIFFLAGS reads its name and flags.
    let result = unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *place = byte as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = if up { libc::IFF_UP as i16 } else { 0 };
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request)
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// An open /dev/net/tun that is not attached to anything, or to an interface with these flags.
pub(crate) fn tun(flags: Option<i32>) -> OwnedFd {
    let file = File::options().read(true).write(true).open("/dev/net/tun").unwrap();
    if let Some(flags) = flags {
        // SAFETY: an ifreq is plain integers; TUNSETIFF reads and writes one.
        let result = unsafe {
            let mut request: libc::ifreq = std::mem::zeroed();
            request.ifr_ifru.ifru_flags = flags as i16;
            libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request)
        };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }
    file.into()
}
