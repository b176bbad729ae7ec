use std::{io, sync::Arc};

use ram::DirtyLog;

use crate::{Machine, kvm::DirtyRings, launcher::Launcher, seccomp::Role};

/// The dirty log of `machine`. Where it is rings, a thread empties them as long as it is on.
pub(super) fn dirty_log(machine: &Machine, launcher: &Launcher) -> Arc<dyn DirtyLog> {
    match machine.dirty_rings() {
        None => machine.dirty_log(),
        Some(rings) => Arc::new(Attended { rings, launcher: launcher.clone() }),
    }
}

/// Has a thread empty `rings` as long as they are in use.
pub(super) fn attend(rings: Arc<DirtyRings>, launcher: &Launcher) -> io::Result<()> {
    launcher.spawn(Role::Rings, "dirty-rings", move || rings.attend()).map(|_| ())
}

/// Rings, and what starts the thread.
struct Attended {
    rings: Arc<DirtyRings>,
    launcher: Launcher,
}

impl DirtyLog for Attended {
    fn start(&self) -> io::Result<()> {
        self.rings.start()?;
        attend(self.rings.clone(), &self.launcher).inspect_err(|_| {
            // What is told is why it could not be started.
            let _ = self.rings.stop();
        })
    }

    fn stop(&self) -> io::Result<()> {
        self.rings.stop()
    }

    fn fetch(&self, block: usize, bits: &mut [u64]) -> io::Result<()> {
        self.rings.fetch(block, bits)
    }

    fn clear(&self, block: usize, first_page: u64, pages: u64, bits: &[u64]) -> io::Result<()> {
        self.rings.clear(block, first_page, pages, bits)
    }
}
