//! What the kernel tells of bytes that it has sent without a copy (Linux, Documentation/networking/msg_zerocopy.rst).
#![expect(unsafe_code, reason = "control messages that no crate has")]

use std::{
    io, mem,
    os::fd::{AsRawFd, BorrowedFd},
};

/// The kernel has done with sends that were numbered so, from 0 on for each socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Completion {
    pub(crate) first: u32,
    pub(crate) last: u32,
    /// It has copied them all the same.
    pub(crate) copied: bool,
}

/// `SO_EE_ORIGIN_ZEROCOPY` and `SO_EE_CODE_ZEROCOPY_COPIED` (linux/errqueue.h).
const ORIGIN_ZEROCOPY: u8 = 5;
const CODE_COPIED: u8 = 1;
/// Room for control messages: a notification is one of 16 bytes and an address.
const CONTROL_WORDS: usize = 32;

/// The next that the kernel tells; `None` where there is nothing now. Never waits.
pub(crate) fn next_completion(fd: BorrowedFd<'_>) -> io::Result<Option<Completion>> {
    loop {
        // Words, as control messages begin where a word does.
        let mut control = [0_u64; CONTROL_WORDS];
        // SAFETY: an all-zero `msghdr` is a valid one.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = mem::size_of_val(&control) as _;
        // SAFETY: the message has no room for bytes, and for control messages as much as is said.
        let received = unsafe {
            libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT)
        };
        if received < 0 {
            match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => continue,
                error if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                error => return Err(error),
            }
        }
        // What else may be in this queue is of no interest here.
        if let Some(completion) = completion(&message) {
            return Ok(Some(completion));
        }
    }
}

fn completion(message: &libc::msghdr) -> Option<Completion> {
    // SAFETY: the message was filled by the kernel, its control messages lie in a buffer that is alive.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(message) };
    // SAFETY: null, or within that buffer.
    while let Some(header) = unsafe { next.as_ref() } {
        let is_error = matches!(
            (header.cmsg_level, header.cmsg_type),
            (libc::SOL_IP, libc::IP_RECVERR) | (libc::SOL_IPV6, libc::IPV6_RECVERR)
        );
        // SAFETY: computes a length.
        let least = unsafe { libc::CMSG_LEN(mem::size_of::<libc::sock_extended_err>() as _) };
        if is_error && header.cmsg_len >= least as _ {
            // SAFETY: the kernel has put one there, as long as was checked; it may lie anywhere.
            let error = unsafe { libc::CMSG_DATA(next).cast::<libc::sock_extended_err>().read_unaligned() };
            if error.ee_origin == ORIGIN_ZEROCOPY && error.ee_errno == 0 {
                let copied = error.ee_code & CODE_COPIED != 0;
                return Some(Completion { first: error.ee_info, last: error.ee_data, copied });
            }
        }
        // SAFETY: as above.
        next = unsafe { libc::CMSG_NXTHDR(message, next) };
    }
    None
}
