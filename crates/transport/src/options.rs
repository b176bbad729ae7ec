//! Socket options that no crate has.
#![expect(unsafe_code, reason = "options are passed by their address")]

use std::{
    ffi::c_int,
    io,
    mem::size_of_val,
    os::fd::{AsRawFd, BorrowedFd},
};

/// Priority of packets that somebody waits for (`TC_PRIO_INTERACTIVE`, linux/pkt_sched.h): the queues of network devices that tell priorities
/// apart, as `pfifo_fast` does, send them first. The highest that needs no privilege.
const INTERACTIVE: c_int = 6;

/// What is sent goes before what other connections of this host send, where the network device's queue tells them apart.
pub(crate) fn set_interactive(fd: BorrowedFd<'_>) -> io::Result<()> {
    set(fd, libc::SOL_SOCKET, libc::SO_PRIORITY, INTERACTIVE)
}

/// No more than `bytes` bytes wait in the socket for their turn on the network: sending waits before there are more.
pub(crate) fn limit_unsent(fd: BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
    let bytes = c_int::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
    set(fd, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, bytes)
}

/// Allows sends without a copy.
///
/// # Errors
/// The kernel has none for this kind of socket.
pub(crate) fn allow_zero_copy(fd: BorrowedFd<'_>) -> io::Result<()> {
    set(fd, libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1)
}

/// Bytes that were written to a TCP socket and that the other side has not acknowledged (`SIOCOUTQ`, tcp(7)).
///
/// # Errors
/// It is no such socket.
pub fn unacknowledged(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut bytes: c_int = 0;
    // SAFETY: the kernel writes an int to that address, which is that of `bytes`, and keeps nothing of it.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result == 0 { Ok(bytes.cast_unsigned()) } else { Err(io::Error::last_os_error()) }
}

fn set(fd: BorrowedFd<'_>, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    let bytes = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the kernel reads so many bytes at that address, which are those of `value`, and keeps nothing of it. All these options take an int.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), bytes) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{TcpListener, TcpStream},
        os::fd::AsFd as _,
        time::{Duration, Instant},
    };

    use super::*;

    #[test]
    fn what_the_other_side_has_taken_is_not_unacknowledged_any_more() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut there = listener.accept().unwrap().0;
        assert_eq!(unacknowledged(here.as_fd()).unwrap(), 0);
        here.set_nonblocking(true).unwrap();
        let mut sent = 0;
        while let Ok(bytes) = here.write(&[0; 1 << 16]) {
            sent += bytes;
        }
        // Both buffers are full.
        assert!(unacknowledged(here.as_fd()).unwrap() > 0);
        there.read_exact(&mut vec![0; sent]).unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        while unacknowledged(here.as_fd()).unwrap() > 0 {
            assert!(Instant::now() < until);
            std::thread::yield_now();
        }
    }
}
