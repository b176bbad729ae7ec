//! The terminal, when the guest's serial port is on it.
//!
//! The guest gets every key as it is pressed, and echoes what it wants echoed. One key stays ours: Ctrl-C (or whatever the
//! terminal has for it) interrupts the process. Output is processed as before, so that lines of the log still begin at
//! the left.
//!
//! The terminal is shared with the shell. It is changed only while this process is in its foreground, and put back as it was
//! found at every end: an orderly one and a panic by dropping [`Terminal`], a forbidden system call and a crash by signal
//! handlers. Nothing helps against SIGKILL; `reset` or `stty sane` does then.
#![expect(unsafe_code, reason = "terminal attributes and signal handlers")]

use std::{
    ffi::{c_int, c_void},
    io::{self, IsTerminal as _},
    mem, ptr,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use config::SerialPort;

const STDIN: c_int = libc::STDIN_FILENO;

/// How the process would end without a word.
const CRASHES: [c_int; 5] = [libc::SIGABRT, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGSEGV];

/// The terminal as it was found.
static FOUND: OnceLock<libc::termios> = OnceLock::new();
/// What was to happen at a crash before.
static BEFORE: OnceLock<[libc::sigaction; CRASHES.len()]> = OnceLock::new();
/// Whether the terminal is changed now.
static CHANGED: AtomicBool = AtomicBool::new(false);

/// Keeps the terminal in the guest's mode. Dropping it puts it back as it was found.
#[derive(Debug)]
pub(crate) struct Terminal(());

impl Terminal {
    /// Prepares the terminal for the guest, if `serial` leads to one. One of a process.
    pub(crate) fn prepare(serial: &SerialPort) -> io::Result<Option<Self>> {
        if *serial != SerialPort::Stdio || !io::stdin().is_terminal() {
            return Ok(None);
        }
        // A guest that prints, or reads, while the shell has the terminal again must not be stopped for that: its time would
        // stand still. Reads fail then, which is the same as no key.
        for signal in [libc::SIGTTIN, libc::SIGTTOU] {
            // SAFETY: no handler is installed, the signal is ignored.
            check(unsafe { libc::signal(signal, libc::SIG_IGN) == libc::SIG_ERR })?;
        }
        FOUND.get_or_init({
            let found = attributes()?;
            move || found
        });
        restore_at_crashes()?;
        resume();
        Ok(Some(Self(())))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Changes the terminal if it is to be changed and this process is in its foreground: at the start, and whenever the process
/// was stopped and goes on, since the shell had the terminal meanwhile.
pub(crate) fn resume() {
    let Some(found) = FOUND.get() else { return };
    if is_ours() && set(&for_guest(*found)).is_ok() {
        CHANGED.store(true, Ordering::Relaxed);
    }
}

/// Puts the terminal back as it was found. May be called from a signal handler.
pub(crate) fn restore() {
    if let (true, Some(found)) = (CHANGED.load(Ordering::Relaxed), FOUND.get())
        && is_ours()
    {
        // It fails when the terminal is gone, and then nobody minds.
        let _ = set(found);
    }
}

/// Every key to the guest, at once, but for the one that interrupts.
fn for_guest(found: libc::termios) -> libc::termios {
    let mut raw = found;
    raw.c_iflag &= !(libc::IGNCR | libc::ICRNL | libc::INLCR | libc::ISTRIP | libc::IXON | libc::IXOFF);
    raw.c_lflag &= !(libc::ICANON | libc::ECHO | libc::ECHONL | libc::IEXTEN);
    raw.c_lflag |= libc::ISIG;
    raw.c_cc[libc::VQUIT] = libc::_POSIX_VDISABLE;
    raw.c_cc[libc::VSUSP] = libc::_POSIX_VDISABLE;
    (raw.c_cc[libc::VMIN], raw.c_cc[libc::VTIME]) = (1, 0);
    raw
}

/// Whether this process is in the foreground of the terminal. One that controls no process is anybody's.
fn is_ours() -> bool {
    // SAFETY: both only ask.
    let (foreground, group) = unsafe { (libc::tcgetpgrp(STDIN), libc::getpgrp()) };
    foreground == -1 || foreground == group
}

fn attributes() -> io::Result<libc::termios> {
    // SAFETY: all zeroes are a value of this plain struct.
    let mut attributes: libc::termios = unsafe { mem::zeroed() };
    // SAFETY: writes one termios.
    check(unsafe { libc::tcgetattr(STDIN, &raw mut attributes) } != 0)?;
    Ok(attributes)
}

fn set(attributes: &libc::termios) -> io::Result<()> {
    // SAFETY: reads one termios.
    check(unsafe { libc::tcsetattr(STDIN, libc::TCSANOW, attributes) } != 0)
}

/// Has the terminal put back before whatever else happens at a crash.
fn restore_at_crashes() -> io::Result<()> {
    // SAFETY: all zeroes are a value of this plain struct.
    let mut before: [libc::sigaction; CRASHES.len()] = unsafe { mem::zeroed() };
    for (signal, before) in CRASHES.into_iter().zip(&mut before) {
        // SAFETY: writes one sigaction.
        check(unsafe { libc::sigaction(signal, ptr::null(), before) } != 0)?;
    }
    if BEFORE.set(before).is_err() {
        return Ok(());
    }
    // SAFETY: as above.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = crashed as extern "C" fn(_, _, _) as usize;
    // A thread that has used up its stack runs the handler on another.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    for signal in CRASHES {
        // SAFETY: the handler does only what a signal handler may do.
        check(unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) } != 0)?;
    }
    Ok(())
}

extern "C" fn crashed(signal: c_int, info: *mut libc::siginfo_t, _context: *mut c_void) {
    restore();
    // SAFETY: the kernel passes a siginfo to a handler that was installed with SA_SIGINFO.
    let was_sent = unsafe { (*info).si_code } <= 0;
    if was_sent {
        // No instruction would crash again for the handler of the standard library, which counts on that. It is delivered on
        // return.
        // SAFETY: installs no handler, and sends a signal to this thread.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
        return;
    }
    let before = BEFORE.get().and_then(|before| {
        CRASHES.into_iter().zip(before).find_map(|(number, action)| (number == signal).then_some(action))
    });
    if let Some(before) = before {
        // SAFETY: puts back what was there. The instruction that crashed is executed again on return, and crashes again.
        unsafe { libc::sigaction(signal, before, ptr::null_mut()) };
    }
}

fn check(failed: bool) -> io::Result<()> {
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}
