use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use rustix::mm::{Advice, madvise};

use crate::Ram;

/// Has the host back memory with pages before it is needed, in the background.
///
/// The kernel zeroes a page when it is touched first. For huge pages, which are reserved anyway, this can be done before pages
/// arrive, so that receiving them does not wait for it. Dropping it ends the work.
#[derive(Debug)]
pub struct Populate {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Memory populated between two looks at whether to stop.
const STEP_BYTES: usize = 32 << 20;

impl Populate {
    /// Starts with all of `ram`. Contents stay as they are. `enter` is called on the new thread before anything else; if it
    /// fails, nothing is populated.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(
        ram: Ram,
        enter: impl FnOnce() -> std::io::Result<()> + Send + 'static,
    ) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let work = move || {
            if enter().is_ok() {
                populate(&ram, &stopped);
            }
        };
        let thread = std::thread::Builder::new().name("populate".into()).spawn(work)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Populate {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It does not panic; and memory that is not populated is as good as any, only slower at first.
            let _ = thread.join();
        }
    }
}

fn populate(ram: &Ram, stop: &AtomicBool) {
    for block in ram.blocks() {
        let bytes = usize::try_from(block.bytes()).unwrap_or(usize::MAX);
        for offset in (0..bytes).step_by(STEP_BYTES) {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let length = STEP_BYTES.min(bytes - offset);
            // SAFETY: the range lies in the block's mapping, which lives as long as `ram`. Populating changes no contents,
            // not even those that others write meanwhile (madvise(2), MADV_POPULATE_WRITE).
            let populated = unsafe {
                madvise(block.host_address().add(offset).as_ptr().cast(), length, Advice::LinuxPopulateWrite)
            };
            if populated.is_err() {
                // Kernels before 5.14 do not know it; others may be out of memory, which a touch will tell.
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backing, BlockLayout};

    #[test]
    fn populating_keeps_what_is_written_and_leaves_the_rest_zero() {
        use vm_memory::{Bytes, GuestAddress};
        let layout = BlockLayout { name: "ram.low".into(), guest_address: 0, bytes: 80 << 20 };
        let ram = Ram::allocate(&[layout], Backing::Memfd).unwrap();
        ram.memory().write_obj(7_u64, GuestAddress(5 << 20)).unwrap();
        populate(&ram, &AtomicBool::new(false));
        assert_eq!(ram.memory().read_obj::<u64>(GuestAddress(5 << 20)).unwrap(), 7);
        assert_eq!(ram.memory().read_obj::<u64>(GuestAddress(79 << 20)).unwrap(), 0);
    }
}
