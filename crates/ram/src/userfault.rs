//! userfaultfd(2): the kernel tells of accesses to pages that are not there, and has the threads wait.
#![expect(unsafe_code, reason = "these are system calls with addresses")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr::NonNull,
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    ioctl::opcode,
};

use crate::Segment;

/// A userfaultfd: memory of this process that is registered with it makes whoever touches a page that is not
/// there wait until the page is put there. KVM's accesses and those of the kernel itself wait too.
///
/// Closing it lets everybody go on: pages that are not there read as zero from then on.
#[derive(Debug)]
pub struct Userfaultfd {
    fd: OwnedFd,
}

/// Why there is no [`Userfaultfd`].
#[derive(Debug, thiserror::Error)]
pub enum UserfaultError {
    /// The process may not have one.
    #[error(
        "This process may not handle page faults of the kernel (userfaultfd): set the sysctl vm.unprivileged_userfaultfd=1, or \
         give it the capability CAP_SYS_PTRACE, or let it read and write /dev/userfaultfd"
    )]
    Permission {
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel has none, or has no memory or descriptors left.
    #[error("The kernel gives no userfaultfd: it needs CONFIG_USERFAULTFD, and a free descriptor")]
    Unavailable {
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel is too old.
    #[error("The kernel's userfaultfd lacks {missing}: Linux 5.14 or later has it")]
    Features {
        /// Names of the features, joined by commas.
        missing: String,
    },
}

/// What access to registered memory waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trap {
    /// A page that does not exist.
    Missing,
    /// As above; and a page that exists in the file, but is not mapped here.
    MissingOrUnmapped,
}

/// An access that waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    /// Where: the first byte of a page.
    pub(crate) address: usize,
    /// The page exists in the file, it is only not mapped.
    pub(crate) exists: bool,
    /// Which thread waits, as the kernel numbers them.
    pub(crate) thread: u32,
}

/// How a call that goes through a range ended: it did `bytes`, then it was stopped by the error, if there is
/// one.
pub(crate) type Progress = (usize, Option<Errno>);

// Linux, include/uapi/linux/userfaultfd.h.
const UFFD_API: u64 = 0xAA;
const GROUP: u8 = 0xAA;
const EVENT_PAGEFAULT: u8 = 0x12;
const FLAG_MINOR: u64 = 1 << 2;
const MODE_MISSING: u64 = 1 << 0;
const MODE_MINOR: u64 = 1 << 2;
/// Of COPY, ZEROPAGE and CONTINUE alike: threads that wait are woken by [`Userfaultfd::wake`].
const DONT_WAKE: u64 = 1;
/// Nothing of the events (fork, remap, remove, unmap): as long as one of those is not read, the kernel
/// refuses COPY and the like, and the thread that caused it waits.
const FEATURES: [(u64, &str); 5] = [
    (1 << 4, "MISSING_HUGETLBFS"),
    (1 << 5, "MISSING_SHMEM"),
    (1 << 8, "THREAD_ID"),
    (1 << 9, "MINOR_HUGETLBFS"),
    (1 << 10, "MINOR_SHMEM"),
];

#[derive(Clone, Copy)]
#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Range {
    start: u64,
    len: u64,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Register {
    range: Range,
    mode: u64,
    ioctls: u64,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Copy {
    dst: u64,
    src: u64,
    len: u64,
    mode: u64,
    copied: i64,
}

/// Of ZEROPAGE and of CONTINUE.
#[derive(Clone, Copy)]
#[repr(C)]
struct Fill {
    range: Range,
    mode: u64,
    filled: i64,
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Message {
    event: u8,
    reserved: [u8; 7],
    /// Of a page fault: flags, address, thread.
    argument: [u64; 3],
}

/// Messages that are read at once.
const MESSAGES: usize = 64;

impl Userfaultfd {
    /// A new one, by /dev/userfaultfd, or by the system call where that device cannot be opened.
    ///
    /// # Errors
    /// The process may not have one, or the kernel has none or is too old.
    pub fn open() -> Result<Self, UserfaultError> {
        match rustix::fs::open("/dev/userfaultfd", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
            Ok(device) => Self::from_device(&device),
            Err(_) => Self::with_features(|| {
                use rustix::mm::UserfaultfdFlags;
                let flags =
                    UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::from_bits_retain(libc::O_NONBLOCK as u32);
                // SAFETY: the descriptor changes nothing until memory is registered with it.
                Ok(unsafe { rustix::mm::userfaultfd(flags) }?)
            }),
        }
    }

    /// A new one, for this process, from /dev/userfaultfd, which was opened for reading and writing, maybe by
    /// another process.
    ///
    /// # Errors
    /// As [`Self::open`]; or it is another device.
    pub fn from_device(device: &impl AsFd) -> Result<Self, UserfaultError> {
        let device = device.as_fd();
        Self::with_features(|| {
            let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
            // SAFETY: USERFAULTFD_IOC_NEW takes flags, no address. A descriptor of something else does not
            // know the number.
            let fd = unsafe { libc::ioctl(device.as_raw_fd(), opcode::none(GROUP, 0).into(), flags) };
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: the kernel has just made the descriptor for us.
            Ok(unsafe { OwnedFd::from_raw_fd(fd) })
        })
    }

    /// The same one once more: memory that was registered with it stays so as long as one of the two is open.
    ///
    /// # Errors
    /// There are no more descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()? })
    }

    fn with_features(new: impl Fn() -> io::Result<OwnedFd>) -> Result<Self, UserfaultError> {
        let new = || match new() {
            Ok(fd) => Ok(Self { fd }),
            Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
                Err(UserfaultError::Permission { source })
            }
            Err(source) => Err(UserfaultError::Unavailable { source }),
        };
        let userfault = new()?;
        let wanted = FEATURES.iter().fold(0, |all, (feature, _)| all | feature);
        if userfault.agree(wanted).is_ok() {
            return Ok(userfault);
        }
        // Which of them it lacks, it tells another one: this can be asked once.
        let offered =
            new()?.agree(0).map_err(|errno| UserfaultError::Unavailable { source: errno.into() })?;
        let missing = FEATURES.iter().filter(|(feature, _)| offered & feature == 0);
        let missing = missing.map(|(_, name)| *name).collect::<Vec<_>>().join(", ");
        Err(UserfaultError::Features { missing })
    }

    /// Asks for these features. Returns those that there are.
    fn agree(&self, features: u64) -> Result<u64, Errno> {
        let mut api = Api { api: UFFD_API, features, ioctls: 0 };
        self.call(opcode::read_write::<Api>(GROUP, 0x3F), &mut api)?;
        Ok(api.features)
    }

    /// From here on access to pages of `memory` that are not there waits. Pages that are there stay.
    pub(crate) fn register(&self, memory: Segment, trap: Trap) -> io::Result<()> {
        // How pages are put there: COPY and ZEROPAGE, or CONTINUE.
        let (mode, needed) = match trap {
            Trap::Missing => (MODE_MISSING, 1 << 3 | 1 << 4),
            Trap::MissingOrUnmapped => (MODE_MISSING | MODE_MINOR, 1 << 3 | 1 << 7),
        };
        let mut register = Register { range: range(memory), mode, ioctls: 0 };
        self.call(opcode::read_write::<Register>(GROUP, 0), &mut register)?;
        if register.ioctls & needed == needed { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) }
    }

    /// From here on no access to `memory` waits. Who waits already is woken by [`Self::wake`].
    pub(crate) fn unregister(&self, memory: Segment) -> io::Result<()> {
        Ok(self.call(opcode::read::<Range>(GROUP, 1), &mut range(memory))?)
    }

    /// Has whoever waits for a page of `memory` look again.
    pub(crate) fn wake(&self, memory: Segment) -> io::Result<()> {
        Ok(self.call(opcode::read::<Range>(GROUP, 2), &mut range(memory))?)
    }

    /// Makes new pages with the bytes from `from` on, where there are none. Wakes nobody.
    ///
    /// # Safety
    /// `from` is as many bytes that can be read, and stay so meanwhile.
    pub(crate) unsafe fn copy(&self, memory: Segment, from: NonNull<u8>) -> Progress {
        let Range { start: dst, len } = range(memory);
        let mut copy = Copy { dst, src: from.as_ptr().addr() as u64, len, mode: DONT_WAKE, copied: 0 };
        let result = self.call(opcode::read_write::<Copy>(GROUP, 3), &mut copy);
        progress(memory, result, copy.copied)
    }

    /// The same with bytes that are borrowed; of more than the memory has, those from the first on.
    pub(crate) fn copy_from(&self, memory: Segment, bytes: &[u8]) -> Progress {
        if bytes.len() < memory.bytes {
            return (0, Some(Errno::INVAL));
        }
        // SAFETY: the bytes are as many, and borrowed meanwhile.
        unsafe { self.copy(memory, NonNull::from(bytes).cast()) }
    }

    /// Makes new pages that are zero, where there are none. Wakes nobody.
    pub(crate) fn zero(&self, memory: Segment) -> Progress {
        self.fill(memory, opcode::read_write::<Fill>(GROUP, 4))
    }

    /// Maps pages that exist in the file. Wakes nobody.
    pub(crate) fn map(&self, memory: Segment) -> Progress {
        self.fill(memory, opcode::read_write::<Fill>(GROUP, 7))
    }

    fn fill(&self, memory: Segment, request: rustix::ioctl::Opcode) -> Progress {
        let mut fill = Fill { range: range(memory), mode: DONT_WAKE, filled: 0 };
        let result = self.call(request, &mut fill);
        progress(memory, result, fill.filled)
    }

    /// Accesses that nobody was told of, at most 64 of them; none if there are none at present.
    pub(crate) fn accesses(&self) -> io::Result<Vec<Access>> {
        let mut messages = [Message::default(); MESSAGES];
        // SAFETY: messages are made of integers, for which any bytes will do, and have no padding.
        let bytes = unsafe {
            std::slice::from_raw_parts_mut(messages.as_mut_ptr().cast::<u8>(), size_of_val(&messages))
        };
        let count = match rustix::io::read(&self.fd, bytes) {
            Ok(bytes) => bytes / size_of::<Message>(),
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let faults = messages[..count].iter().filter(|message| message.event == EVENT_PAGEFAULT);
        let access = |message: &Message| {
            let [flags, address, thread] = message.argument;
            Access { address: address as usize, exists: flags & FLAG_MINOR != 0, thread: thread as u32 }
        };
        Ok(faults.map(access).collect())
    }

    /// `T` is the structure that belongs to `request`.
    fn call<T: std::marker::Copy>(
        &self,
        request: rustix::ioctl::Opcode,
        argument: &mut T,
    ) -> Result<(), Errno> {
        // SAFETY: each caller gives the structure of its request, which the kernel reads and writes and which
        // lives across the call. Memory that is meant by it: pages appear in this process only where there
        // were none, or were not mapped, so that no value that Rust relies on changes; what is read for COPY
        // is promised by its caller.
        match unsafe { libc::ioctl(self.fd.as_raw_fd(), request.into(), std::ptr::from_mut(argument)) } {
            -1 => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)),
            _ => Ok(()),
        }
    }
}

impl AsFd for Userfaultfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn range(memory: Segment) -> Range {
    Range { start: memory.address.as_ptr().addr() as u64, len: memory.bytes as u64 }
}

/// `done` is how many bytes the kernel did, or minus the number of the error that stopped it at the first.
fn progress(memory: Segment, result: Result<(), Errno>, done: i64) -> Progress {
    match result {
        Ok(()) => (memory.bytes, None),
        // Part of it, then something stopped it: going on tells what.
        Err(Errno::AGAIN) if done > 0 => (usize::try_from(done).unwrap_or(0).min(memory.bytes), None),
        Err(error) => (0, Some(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_device_is_refused() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let error = Userfaultfd::from_device(&null).unwrap_err();
        assert!(matches!(error, UserfaultError::Unavailable { .. }), "{error}");
    }

    #[test]
    fn who_may_not_have_one_is_told_what_to_grant() {
        let refused = || Err(io::ErrorKind::PermissionDenied.into());
        let text = Userfaultfd::with_features(refused).unwrap_err().to_string();
        for remedy in ["vm.unprivileged_userfaultfd=1", "CAP_SYS_PTRACE", "/dev/userfaultfd"] {
            assert!(text.contains(remedy), "{text}");
        }
    }
}
