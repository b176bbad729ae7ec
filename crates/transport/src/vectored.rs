//! The system calls that move bytes, and all that is unsafe about them.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    ptr::NonNull,
    time::Instant,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{self, RecvFlags, SendFlags},
};

/// A piece of this process's memory to send from or receive into. Laid out as the kernel's `struct iovec`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Piece {
    address: NonNull<u8>,
    bytes: usize,
}

/// Most pieces in one system call (`IOV_MAX` of Linux).
const MAX_PIECES: usize = 1024;

// SAFETY: a piece is an address and a length; using it is what is unsafe, on whichever thread.
unsafe impl Send for Piece {}

impl Piece {
    /// The `bytes` bytes at `address`.
    #[must_use]
    pub fn new(address: NonNull<u8>, bytes: usize) -> Self {
        Self { address, bytes }
    }

    /// Where it begins.
    #[must_use]
    pub fn address(&self) -> NonNull<u8> {
        self.address
    }

    /// How many bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Drops the first `bytes` bytes, which must be in the piece.
    fn advance(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.bytes);
        // SAFETY: stays within the piece or one past its end.
        self.address = unsafe { self.address.add(bytes) };
        self.bytes -= bytes;
    }
}

/// Sends all bytes.
pub(crate) fn send_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::net::send(fd, bytes, rustix::net::SendFlags::NOSIGNAL) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Sends all bytes, or gives up at `deadline`.
pub(crate) fn send_all_until(fd: BorrowedFd<'_>, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::net::send(fd, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(Errno::AGAIN) => wait_for(PollFlags::OUT, fd, deadline)?,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Returns when it may have come, or with an error once `deadline` is over.
fn wait_for(what: PollFlags, fd: BorrowedFd<'_>, deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
    match poll(&mut [PollFd::from_borrowed_fd(fd, what)], Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Fills `bytes`.
pub(crate) fn receive_all(fd: BorrowedFd<'_>, mut bytes: &mut [u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::read(fd, &mut *bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(received) => bytes = &mut bytes[received..],
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Receives into `bytes` as much as there is, at least a byte; 0 at the end of the stream.
pub(crate) fn receive_some(fd: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<usize> {
    loop {
        match rustix::io::read(fd, &mut *bytes) {
            Err(Errno::INTR) => {}
            received => return Ok(received?),
        }
    }
}

/// As [`receive_some`], or gives up at `deadline`.
pub(crate) fn receive_some_until(
    fd: BorrowedFd<'_>,
    bytes: &mut [u8],
    deadline: Instant,
) -> io::Result<usize> {
    loop {
        // Also where there is always something to read: who sends a byte now and then must come to an end.
        wait_for(PollFlags::IN, fd, deadline)?;
        match net::recv(fd, &mut *bytes, RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            received => return Ok(received?.0),
        }
    }
}

/// Fills `bytes`, or gives up at `deadline`.
pub(crate) fn receive_all_until(
    fd: BorrowedFd<'_>,
    mut bytes: &mut [u8],
    deadline: Instant,
) -> io::Result<()> {
    while !bytes.is_empty() {
        match receive_some_until(fd, bytes, deadline)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            received => bytes = &mut bytes[received..],
        }
    }
    Ok(())
}

/// Moves what fits from the front of `bytes` to the front of `room`. Returns how many.
pub(crate) fn take_front(bytes: &mut &[u8], room: &mut [u8]) -> usize {
    let (now, rest) = bytes.split_at(bytes.len().min(room.len()));
    room[..now.len()].copy_from_slice(now);
    *bytes = rest;
    now.len()
}

/// Moves what fits of `head`, and then of what is in `pieces`, into the room that it is given.
///
/// # Safety
/// The pieces are mapped as long as it is used. They may be written by others meanwhile.
pub(crate) unsafe fn filler<'p>(
    mut head: &'p [u8],
    mut pieces: &'p mut [Piece],
) -> impl FnMut(&mut [u8]) -> usize + 'p {
    move |room| {
        let first = take_front(&mut head, room);
        // SAFETY: the caller's promise.
        let (copied, left) = unsafe { copy_out(std::mem::take(&mut pieces), &mut room[first..]) };
        pieces = left;
        first + copied
    }
}

/// Copies from the front of `pieces` until `bytes` is full or nothing is left. Returns how many bytes, and what is left.
///
/// # Safety
/// The pieces are mapped. Others may write them meanwhile; what is copied is then some mixture of old and new.
pub(crate) unsafe fn copy_out<'p>(mut pieces: &'p mut [Piece], bytes: &mut [u8]) -> (usize, &'p mut [Piece]) {
    let mut copied = 0;
    while let Some(piece) = pieces.first() {
        let now = piece.bytes.min(bytes.len() - copied);
        if now == 0 && piece.bytes > 0 {
            break;
        }
        // SAFETY: the piece is mapped by the caller's promise, and `bytes` has room for `now` more. They do not overlap: `bytes` is
        // borrowed for this call alone. Whoever writes the piece meanwhile is the guest or a device of it, outside of what this
        // program's own references promise; the copy is of bytes, of which every value is valid.
        unsafe { piece.address.as_ptr().copy_to_nonoverlapping(bytes.as_mut_ptr().add(copied), now) };
        copied += now;
        pieces = skip(pieces, now);
        if copied == bytes.len() {
            break;
        }
    }
    (copied, pieces)
}

/// Copies `bytes` into the front of `pieces`, which are at least as long. Returns what is left of the pieces.
///
/// # Safety
/// The pieces are mapped, and nobody relies on their contents.
pub(crate) unsafe fn copy_in<'p>(mut pieces: &'p mut [Piece], mut bytes: &[u8]) -> &'p mut [Piece] {
    while let (Some(piece), false) = (pieces.first(), bytes.is_empty()) {
        let now = piece.bytes.min(bytes.len());
        // SAFETY: the piece is mapped and nobody relies on it, by the caller's promise; both have `now` bytes. They do not overlap:
        // `bytes` is this program's own buffer.
        unsafe { piece.address.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), now) };
        bytes = &bytes[now..];
        pieces = skip(pieces, now);
    }
    pieces
}

/// Copies `bytes` into `pieces`, one after the other; what there is no room for is left out.
///
/// # Safety
/// The pieces are mapped, and nobody relies on their contents.
pub unsafe fn fill(pieces: &mut [Piece], bytes: &[u8]) {
    // SAFETY: the caller's promise.
    unsafe { copy_in(pieces, bytes) };
}

/// # Safety
/// As [`Connection::send_pieces`](crate::Connection::send_pieces).
pub(crate) unsafe fn send_pieces(fd: BorrowedFd<'_>, head: &[u8], pieces: &mut [Piece]) -> io::Result<()> {
    send_head(fd, head, !pieces.is_empty())?;
    // SAFETY: the caller's promise.
    unsafe { send_all_pieces(fd, pieces) }
}

/// # Safety
/// As [`Connection::send_pieces`](crate::Connection::send_pieces).
pub(crate) unsafe fn send_all_pieces(fd: BorrowedFd<'_>, mut pieces: &mut [Piece]) -> io::Result<()> {
    while !pieces.is_empty() {
        // SAFETY: the caller's promise.
        let sent = unsafe { send_some(fd, pieces, libc::MSG_NOSIGNAL) }?;
        pieces = skip(pieces, sent);
    }
    Ok(())
}

/// Sends all of `head`, which `more` follows or does not.
pub(crate) fn send_head(fd: BorrowedFd<'_>, head: &[u8], more: bool) -> io::Result<()> {
    let flags = if more { libc::MSG_NOSIGNAL | libc::MSG_MORE } else { libc::MSG_NOSIGNAL };
    let sent = loop {
        // SAFETY: `head` is a live slice of that length.
        let sent = unsafe { libc::send(fd.as_raw_fd(), head.as_ptr().cast(), head.len(), flags) };
        if let Some(sent) = result(sent)? {
            break sent;
        }
    };
    send_all(fd, &head[sent..])
}

/// Sends from the front of `pieces` what the kernel takes, at most `most` bytes, and has it read them where they are. Returns how many
/// bytes, and what is left of the pieces.
///
/// # Safety
/// The pieces are mapped, and as long as the kernel has not said that it is done, nobody puts into their place what the other side must
/// not see.
pub(crate) unsafe fn send_without_copy<'p>(
    fd: BorrowedFd<'_>,
    pieces: &'p mut [Piece],
    most: usize,
) -> (io::Result<usize>, &'p mut [Piece]) {
    let (mut whole, mut bytes) = (0, 0);
    while let Some(piece) = pieces.get(whole).filter(|piece| bytes + piece.bytes <= most) {
        bytes += piece.bytes;
        whole += 1;
    }
    let flags = libc::MSG_NOSIGNAL | libc::MSG_ZEROCOPY;
    let sent = match pieces.first() {
        None => return (Ok(0), pieces),
        // SAFETY: a part of the piece, and the caller's promise.
        Some(first) if whole == 0 => unsafe { send_some(fd, &[Piece::new(first.address, most)], flags) },
        // SAFETY: the caller's promise.
        Some(_) => unsafe { send_some(fd, &pieces[..whole], flags) },
    };
    match sent {
        Ok(sent) => (Ok(sent), skip(pieces, sent)),
        error => (error, pieces),
    }
}

/// # Safety
/// The pieces are mapped for as long as the flags have the kernel read them.
unsafe fn send_some(fd: BorrowedFd<'_>, pieces: &[Piece], flags: libc::c_int) -> io::Result<usize> {
    // SAFETY: an all-zero `msghdr` is a valid one.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = pieces.as_ptr().cast_mut().cast();
    message.msg_iovlen = pieces.len().min(MAX_PIECES) as _;
    loop {
        // SAFETY: the iovecs are live and only read, laid out as the kernel's, and the caller promised what they point to.
        let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &message, flags) };
        if let Some(sent) = result(sent)? {
            return Ok(sent);
        }
    }
}

/// # Safety
/// As [`Connection::receive_pieces`](crate::Connection::receive_pieces).
pub(crate) unsafe fn receive_pieces(fd: BorrowedFd<'_>, mut pieces: &mut [Piece]) -> io::Result<()> {
    pieces = skip(pieces, 0);
    while !pieces.is_empty() {
        let count = pieces.len().min(MAX_PIECES) as libc::c_int;
        // SAFETY: the iovecs are live, laid out as the kernel's, and the caller promised what they point to.
        let received = unsafe { libc::readv(fd.as_raw_fd(), pieces.as_ptr().cast(), count) };
        match result(received)? {
            Some(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Some(received) => pieces = skip(pieces, received),
            None => {}
        }
    }
    Ok(())
}

/// What a system call moved; `None` when a signal came first and it must be repeated.
fn result(moved: libc::ssize_t) -> io::Result<Option<usize>> {
    match usize::try_from(moved) {
        Ok(moved) => Ok(Some(moved)),
        Err(_) => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            error => Err(error),
        },
    }
}

/// The pieces without their first `bytes` bytes, and without pieces that are empty then.
fn skip(mut pieces: &mut [Piece], mut bytes: usize) -> &mut [Piece] {
    while let Some(first) = pieces.first_mut() {
        if first.bytes > bytes {
            first.advance(bytes);
            break;
        }
        bytes -= first.bytes;
        pieces = &mut pieces[1..];
    }
    pieces
}
