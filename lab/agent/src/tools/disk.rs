//! Writes numbered records to a disk, each with a checksum, and says so once a record is safe.

use std::{
    fs::File,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    time::Duration,
};

use whimbrel_lab_agent::record::{self, RECORD_BYTES};

use super::{Every, ToolError, mix, say};

const USAGE: &str = "disk write DEVICE RECORDS";

/// Runs until it is killed or reads something else than it wrote.
///
/// Record N goes to slot N modulo RECORDS. It is safe once fdatasync has returned; `safe=N` is printed after that.
pub(crate) fn run(words: &[&str]) -> Result<(), ToolError> {
    let ["write", device, slots] = words else { return Err(ToolError::Usage(USAGE)) };
    let slots: u64 = slots.parse().ok().filter(|slots| *slots > 0).ok_or(ToolError::Usage(USAGE))?;
    let writer = File::options().write(true).open(device)?;
    // Past the guest's page cache, which would answer for a disk that has lost something.
    let reader = File::options().read(true).custom_flags(libc::O_DIRECT).open(device)?;
    let mut report = Every::new(Duration::from_millis(100));
    for number in 1.. {
        writer.write_all_at(&record::make(number), number % slots * RECORD_BYTES as u64)?;
        writer.sync_data()?;
        if report.is_due() {
            say(&format!("safe={number}"))?;
        }
        let oldest = number.saturating_sub(slots - 1).max(1);
        let looked_at = oldest + mix(number) % (number - oldest + 1);
        check(&reader, looked_at, slots)?;
    }
    Ok(())
}

fn check(reader: &File, number: u64, slots: u64) -> Result<(), ToolError> {
    let mut buffer = Aligned([0; RECORD_BYTES]);
    reader.read_exact_at(&mut buffer.0, number % slots * RECORD_BYTES as u64)?;
    match record::read(&buffer.0) {
        Some(found) if found == number => Ok(()),
        found => Err(ToolError::Wrong(format!("Record {number} was read back as {found:?}"))),
    }
}

/// What O_DIRECT asks for.
#[repr(align(4096))]
struct Aligned([u8; RECORD_BYTES]);
