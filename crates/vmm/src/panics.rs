//! What becomes of a thread that panics: a defect of this program, which must be seen, and must not leave a machine in a state
//! that nobody knows.
//!
//! | thread | consequence |
//! |---|---|
//! | vCPU, I/O, disk | the machine stops in the state `internal-error`; `system_reset` starts it anew |
//! | events | the same |
//! | migration, source | the attempt fails and the machine runs on; after *go* the source keeps asking who runs it |
//! | migration, destination | the attempt fails, the machine stays at the source; after *go* it belongs to the destination |
//! | channel, control, dial | the same, as if the link was lost |
//! | accept, greet | strangers are not served, which the log says |
//! | launcher | what was to be done fails; the launcher goes on |
//! | a client of the monitor | that client is dropped |
//! | main | the process ends |

use std::{io::Write as _, panic::PanicHookInfo, time::Duration};

use config::Seccomp;

pub(crate) use engine::catch_panic as catch;

/// Has panics told in one line. A backtrace needs files that confined threads must not open; without confinement there is
/// one as usual.
pub(crate) fn install_hook(mode: Seccomp) {
    if mode != Seccomp::Off {
        std::panic::set_hook(Box::new(tell));
    }
}

fn tell(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let place = panic.location().map_or_else(String::new, |location| format!(" at {location}"));
    // Like a line of the log: where nobody reads it, it is lost.
    let line = format!(
        "whimbrel-vmm: Thread '{}' panicked{place}: {}. This is a defect, please report it (with --seccomp off and \
         RUST_BACKTRACE=1 there is a backtrace)\n",
        thread.name().unwrap_or("?"),
        panic.payload_as_str().unwrap_or("no message"),
    );
    let _ = output::Log.write_all(line.as_bytes());
    // It may be the last of this process.
    output::Log::finish(Duration::from_millis(100));
}
