//! Lines for people, on standard output and standard error.
//!
//! A line that cannot be written is lost, and costs nothing else: its reader may have gone (`| head`, a supervisor that
//! restarts), its file system may be full. `println!` and `eprintln!` panic then, so that no program of this repository uses
//! them (a test of `crates/boundaries` sees to it). SIGPIPE is ignored by every Rust program, and stays so.
//!
//! | what it is | how |
//! |---|---|
//! | a line of progress, a figure | [`say!`] |
//! | a complaint, for standard error | [`complain!`] |
//! | the text that a command was run for | [`show`] |
//! | a line of the log | [`Log`] |

mod log;

use std::{
    fmt,
    io::{self, Write as _},
};

pub use log::Log;

/// Prints a line on standard output, with the arguments of `format!`. Lost if it cannot be written.
#[macro_export]
macro_rules! say {
    ($($argument:tt)*) => { $crate::say_line(::core::format_args!($($argument)*)) };
}

/// Prints a line on standard error, with the arguments of `format!`. Lost if it cannot be written.
#[macro_export]
macro_rules! complain {
    ($($argument:tt)*) => { $crate::complain_line(::core::format_args!($($argument)*)) };
}

/// What [`say!`] does.
pub fn say_line(line: fmt::Arguments<'_>) {
    // As the crate's documentation says.
    let _ = write_now(&mut io::stdout().lock(), &format!("{line}\n"));
}

/// What [`complain!`] does.
pub fn complain_line(line: fmt::Arguments<'_>) {
    // As the crate's documentation says.
    let _ = io::stderr().lock().write_all(format!("{line}\n").as_bytes());
}

/// Prints the text that a command was run for. A reader that has gone has seen enough, and that is no error.
///
/// # Errors
/// Standard output takes no more, for example since its file system is full: whoever asked has not got all of it.
pub fn show(text: &str) -> io::Result<()> {
    match write_now(&mut io::stdout().lock(), text) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(io::Error::new(error.kind(), format!("Standard output takes no more: {error}"))),
        Ok(()) => Ok(()),
    }
}

/// Writes all of it in one piece, past the buffer that would report a failure at the end of the process, which is nobody's then.
fn write_now(to: &mut impl io::Write, text: &str) -> io::Result<()> {
    to.write_all(text.as_bytes())?;
    to.flush()
}
