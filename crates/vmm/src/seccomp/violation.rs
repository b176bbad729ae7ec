//! A thread makes a system call that its filter forbids: the process says so and ends.
//!
//! Either the filter is wrong or somebody has taken the thread over. Nothing can be repaired in either case, least of all by
//! going on. The kernel sends SIGSYS instead of making the call; the handler here says which thread wanted what, on standard
//! error, and ends the process with [`EXIT_STATUS`]. It does only what may be done in a signal handler, and what every
//! filter allows.
#![expect(unsafe_code, reason = "a signal handler, and what the kernel tells it")]

use std::{
    ffi::{CStr, c_int, c_void},
    io,
};

use vmm_sys_util::signal::register_signal_handler;

use crate::{arch, terminal};

/// Exit status of a process that was ended so: what a shell makes of a death by SIGSYS.
pub(super) const EXIT_STATUS: i32 = 128 + libc::SIGSYS;

/// Has the process end with a message when a filter stops a thread.
pub(super) fn install_handler() -> io::Result<()> {
    register_signal_handler(libc::SIGSYS, handle).map_err(|error| io::Error::from_raw_os_error(error.errno()))
}

/// How long the message waits for a reader that does not read, in milliseconds.
const LAST_LINE_MS: c_int = 200;

/// The start of `siginfo_t` for SIGSYS (Linux, include/uapi/asm-generic/siginfo.h, `_sigsys`, on 64 bits).
#[repr(C)]
struct Trapped {
    signal: c_int,
    errno: c_int,
    code: c_int,
    padding: c_int,
    address: *mut c_void,
    call: c_int,
    architecture: u32,
}

extern "C" fn handle(_signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    terminal::restore();
    // SAFETY: the kernel passes a siginfo of SIGSYS, which begins so and is larger, and the context of the thread.
    let (call, arguments) =
        unsafe { ((*info.cast::<Trapped>()).call, arch::trapped_arguments(context.cast_const())) };
    let mut name = [0_u8; 16];
    // SAFETY: PR_GET_NAME writes at most 16 bytes, with a zero at the end (prctl(2)).
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    let name = CStr::from_bytes_until_nul(&name).unwrap_or_default().to_bytes();
    let mut message = Message::default();
    message.text(b"whimbrel-vmm: Thread '");
    message.text(name);
    message.text(b"' wanted system call ");
    message.number(u64::from(call.unsigned_abs()), 10);
    for (index, argument) in arguments.into_iter().enumerate() {
        message.text(if index == 0 { b"(0x" } else { b", 0x" });
        message.number(argument, 16);
    }
    message.text(
        b", ...), which its seccomp filter forbids: the process ends. This is a defect or an attack, please report it. \
          With --seccomp log the kernel logs such calls and lets them through\n",
    );
    message.print();
    // SAFETY: ends the process without running anything else of it.
    unsafe { libc::_exit(EXIT_STATUS) }
}

/// Text that is put together without the allocator.
struct Message {
    bytes: [u8; 512],
    used: usize,
}

impl Default for Message {
    fn default() -> Self {
        Self { bytes: [0; 512], used: 0 }
    }
}

impl Message {
    fn text(&mut self, text: &[u8]) {
        for byte in text {
            if let Some(place) = self.bytes.get_mut(self.used) {
                *place = *byte;
                self.used += 1;
            }
        }
    }

    fn number(&mut self, mut number: u64, base: u64) {
        let mut digits = [0; 20];
        let mut first = digits.len();
        loop {
            first -= 1;
            digits[first] = b"0123456789abcdef"[(number % base) as usize];
            number /= base;
            if number == 0 {
                return self.text(&digits[first..]);
            }
        }
    }

    fn print(&self) {
        let mut room = libc::pollfd { fd: libc::STDERR_FILENO, events: libc::POLLOUT, revents: 0 };
        // SAFETY: one descriptor to look at, which is live. Where its reader does not read, the process ends all the same.
        let has_room = unsafe { libc::poll(&raw mut room, 1, LAST_LINE_MS) } != 0;
        if !has_room {
            return;
        }
        // SAFETY: the buffer is live and that long. Where standard error is closed there is nobody to tell.
        unsafe { libc::write(libc::STDERR_FILENO, self.bytes.as_ptr().cast(), self.used) };
    }
}
