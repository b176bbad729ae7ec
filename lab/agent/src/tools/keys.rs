//! Says what the keys of input devices do.

use std::{fs::File, io::Read, thread};

use super::{ToolError, say};

/// Bytes of `struct input_event` on 64-bit Linux: a time of 16, type, code, value (Documentation/input/input.rst).
const EVENT: usize = 24;
/// `EV_KEY`.
const KEY: u16 = 1;

/// Prints keys until it is killed: `key=CODE down=1`.
pub(crate) fn run(devices: &[&str]) -> Result<(), ToolError> {
    if devices.is_empty() {
        return Err(ToolError::Usage("keys DEVICE…"));
    }
    let mut files = Vec::new();
    for device in devices {
        files.push(File::open(device)?);
    }
    say("listening=1")?;
    let watchers: Vec<_> = files.into_iter().map(|file| thread::spawn(move || watch(file))).collect();
    for watcher in watchers {
        watcher.join().map_err(|_| ToolError::Wrong("A thread panicked".into()))??;
    }
    Ok(())
}

fn watch(mut file: File) -> Result<(), ToolError> {
    let mut event = [0; EVENT];
    loop {
        file.read_exact(&mut event)?;
        let half = |at: usize| u16::from_le_bytes([event[at], event[at + 1]]);
        if half(16) == KEY {
            say(&format!("key={} down={}", half(18), half(20)))?;
        }
    }
}
