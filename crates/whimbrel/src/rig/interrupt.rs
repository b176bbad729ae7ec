use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
};

/// Signals that ask this process to end, as a condition that whoever waits looks at: what was started is then taken down in
/// the order in which it was built up, instead of being left behind.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt {
    raised: Arc<AtomicBool>,
}

/// The user wants to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Interrupted")]
pub(crate) struct Interrupted;

/// How long a signal may go unnoticed.
const SLICE: Duration = Duration::from_millis(20);

impl Interrupt {
    /// Takes SIGINT, SIGTERM and SIGHUP from here on.
    pub(crate) fn install() -> io::Result<Self> {
        let raised = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            flag::register(signal, raised.clone())?;
        }
        Ok(Self { raised })
    }

    /// An error once a signal came.
    pub(crate) fn check(&self) -> Result<(), Interrupted> {
        if self.raised.load(Ordering::Relaxed) { Err(Interrupted) } else { Ok(()) }
    }

    /// Sleeps, unless a signal comes.
    pub(crate) fn sleep(&self, duration: Duration) -> Result<(), Interrupted> {
        let until = Instant::now() + duration;
        loop {
            self.check()?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(SLICE));
        }
    }
}
