//! What the engine must not do behind a test's back.

use std::sync::{
    Mutex, Once,
    atomic::{AtomicBool, Ordering},
};

static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());
static HOOKED: AtomicBool = AtomicBool::new(false);

/// Notes panics of the engine's threads from here on; the engine itself turns them into failures.
pub(crate) fn panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let thread = std::thread::current();
            if thread.name().is_some_and(|name| name.starts_with("mig")) {
                PANICS.lock().unwrap().push(panic.to_string());
            }
            before(panic);
        }));
        HOOKED.store(true, Ordering::SeqCst);
    });
}

pub(crate) fn assert_no_panic() {
    assert!(HOOKED.load(Ordering::SeqCst), "nobody watched");
    let panics = PANICS.lock().unwrap();
    assert!(panics.is_empty(), "threads of the engine panicked: {panics:#?}");
}

/// Memory of this process that is backed by pages, in MiB.
pub(crate) fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
}
