//! What the tests of this crate share: a machine without devices, and guests made of a few instructions.

use std::{io::Write as _, path::PathBuf, sync::Arc, time::Duration};

use devices::BusDevice;
use parking_lot::{Condvar, Mutex};
use tempfile::NamedTempFile;

/// Longest that a test waits for a guest. Guests of this crate need milliseconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Whether KVM can be used here. If not, the caller skips its test, loudly.
pub(crate) fn kvm_is_usable(test: &str) -> bool {
    let usable = kvm_ioctls::Kvm::new();
    if let Err(error) = &usable {
        eprintln!("SKIPPED {test}: /dev/kvm cannot be used ({error})");
    }
    usable.is_ok()
}

/// An ELF file with a PVH note whose entry is `code`, 32-bit, loaded and started at 1 MiB.
pub(crate) fn guest(code: &[u8]) -> NamedTempFile {
    const ENTRY: u32 = 0x10_0000;
    const HEADERS: u64 = 64 + 2 * 56;
    let mut note: Vec<u8> = [4u32, 4, 18].into_iter().flat_map(u32::to_le_bytes).collect();
    note.extend(b"Xen\0");
    note.extend(ENTRY.to_le_bytes());

    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2u16, 62].into_iter().flat_map(u16::to_le_bytes));
    file.extend(1u32.to_le_bytes());
    file.extend([u64::from(ENTRY), 64, 0].into_iter().flat_map(u64::to_le_bytes));
    file.extend(0u32.to_le_bytes());
    file.extend([64u16, 56, 2, 0, 0, 0].into_iter().flat_map(u16::to_le_bytes));
    let segment = |kind: u32, offset: u64, bytes: usize| {
        let mut header: Vec<u8> = [kind, 7].into_iter().flat_map(u32::to_le_bytes).collect();
        let at = u64::from(ENTRY);
        header.extend([offset, at, at, bytes as u64, bytes as u64, 1].into_iter().flat_map(u64::to_le_bytes));
        header
    };
    file.extend(segment(4, HEADERS, note.len()));
    file.extend(segment(1, HEADERS + note.len() as u64, code.len()));
    file.extend(note);
    file.extend(code);

    let mut named = NamedTempFile::new().unwrap();
    named.write_all(&file).unwrap();
    named
}

/// A port device that keeps what is written to it, and lets tests wait for it.
#[derive(Clone, Default)]
pub(crate) struct Capture(Arc<(Mutex<Vec<u8>>, Condvar)>);

impl Capture {
    /// Waits until `done` of what has been written, and returns that.
    pub(crate) fn wait_for(&self, done: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let (written, changed) = &*self.0;
        let mut written = written.lock();
        while !done(&written) {
            let late = changed.wait_for(&mut written, PATIENCE).timed_out();
            assert!(!late, "the guest wrote only {:?}", String::from_utf8_lossy(&written));
        }
        written.clone()
    }
}

impl BusDevice for Capture {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }
    fn write(&mut self, _offset: u64, data: &[u8]) {
        self.0.0.lock().extend(data);
        self.0.1.notify_all();
    }
}

/// The path of a guest's file.
pub(crate) fn path(file: &NamedTempFile) -> PathBuf {
    file.path().to_owned()
}
