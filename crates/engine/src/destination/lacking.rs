//! Pages that follow the machine: which ones, and the thread that hears it wait for them.

use std::{sync::Arc, thread::JoinHandle};

use ram::{Incomplete, PageSet, PageSums, Ram, Userfaultfd};
use wire::PageBits;

use super::follow::Postcopy;
use crate::{MachineError, ThreadRole, Threads, threads};

/// Of a machine that arrives, and then runs here.
pub(super) struct Lacking {
    noted: Vec<PageSet>,
    memory: Option<Arc<Incomplete>>,
    thread: Option<JoinHandle<()>>,
    /// Whether some of the machine may have run.
    pub(super) ran: bool,
    pub(super) postcopy: Postcopy,
}

impl Lacking {
    pub(super) fn new(
        ram: &Ram,
        has_pulse: bool,
        has_sums: bool,
        whole: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let noted = ram.blocks().iter().map(|block| PageSet::new(block.pages())).collect();
        let postcopy = Postcopy {
            gate: Arc::default(),
            closed: Arc::default(),
            faults: Arc::default(),
            has_pulse,
            has_sums,
            whole: Arc::new(whole),
        };
        Self { noted, memory: None, thread: None, ran: false, postcopy }
    }

    /// Notes pages that the source says will follow.
    pub(super) fn note(&mut self, bits: &PageBits) -> Result<(), String> {
        let words = bits.words().map_err(|error| error.to_string())?;
        let added =
            self.noted.get(usize::from(bits.block)).and_then(|set| set.add_words(bits.first_page, &words));
        added.map(|_| ()).ok_or_else(|| "The source names pages that do not exist".into())
    }

    /// What was sent before of the pages that will follow is not compared.
    pub(super) fn leave_out_of(&self, sums: &PageSums) {
        self.noted.iter().enumerate().for_each(|(index, pages)| sums.leave_out(index, pages));
    }

    /// Has accesses to what was noted wait, and starts hearing them.
    pub(super) fn arm(
        &mut self,
        threads: &Arc<dyn Threads>,
        ram: &Ram,
        userfault: Userfaultfd,
        to_come: u64,
        vcpus: &[u32],
    ) -> Result<(), MachineError> {
        let noted: u64 = self.noted.iter().map(PageSet::count).sum();
        if noted != to_come {
            return Err(format!("{to_come} pages are to follow, and the source has named {noted}").into());
        }
        let memory = Incomplete::arm(ram, userfault, std::mem::take(&mut self.noted))?;
        let faults = self.postcopy.faults.clone();
        faults.loads(memory.clone(), vcpus);
        let theirs = memory.clone();
        let hear = move || faults.hear(&theirs);
        let failed = |reason| tracing::error!("{reason}: the machine may wait for ever");
        self.thread = Some(threads::spawn(threads, ThreadRole::Faults, "mig-faults", hear, failed)?);
        self.postcopy.gate.open(memory.clone());
        self.memory = Some(memory);
        Ok(())
    }

    pub(super) fn memory(&self) -> Option<&Arc<Incomplete>> {
        self.memory.as_ref()
    }

    /// Every page is here: nothing waits any more.
    pub(super) fn complete(&mut self) {
        if let Some(memory) = &self.memory
            && let Err(error) = memory.release()
        {
            tracing::error!("The memory of the machine stays watched for faults: {error}");
            return;
        }
        self.end();
    }

    /// No page is needed any more that is missing.
    pub(super) fn forget(&mut self) {
        if let Some(memory) = &self.memory {
            memory.forget();
        }
        self.end();
    }

    /// This side ends. A machine that did not run yet does not come after all. One that runs keeps waiting for what is missing: its
    /// devices must not go on with pages that are not its own, and write them to its disks.
    pub(super) fn abandon(&mut self) {
        let Some(memory) = &self.memory else { return };
        if self.ran {
            // The thread holds the memory from here on, to the end of the process.
            self.thread = None;
            return;
        }
        memory.abandon();
        self.end();
    }

    fn end(&mut self) {
        if let Some(memory) = &self.memory {
            memory.stop();
        }
        if let Some(thread) = self.thread.take() {
            // A panic was reported by the thread itself.
            let _ = thread.join();
        }
        self.postcopy.faults.end();
    }
}

#[cfg(test)]
mod tests {
    use ram::{Backing, BlockLayout};

    use super::*;
    use crate::PlainThreads;

    #[test]
    fn memory_of_a_machine_that_did_not_come_is_let_go_of_though_its_figures_are_kept() {
        let Ok(userfault) = Userfaultfd::open() else {
            return eprintln!("SKIPPED: there is no userfaultfd here");
        };
        let layout = BlockLayout { name: "ram.low".into(), guest_address: 0, bytes: 1 << 20 };
        let ram = Ram::allocate(&[layout], Backing::Memfd).unwrap();
        let threads: Arc<dyn Threads> = Arc::new(PlainThreads);
        let mut lacking = Lacking::new(&ram, true, false, || {});
        lacking.note(&PageBits { block: 0, first_page: 0, bits: vec![7] }).unwrap();
        lacking.arm(&threads, &ram, userfault, 3, &[]).unwrap();
        let (memory, figures) = (Arc::downgrade(lacking.memory().unwrap()), lacking.postcopy.faults.clone());
        assert!(figures.runs(), "it is loaded");
        lacking.abandon();
        drop(lacking);
        assert!(memory.upgrade().is_none(), "who shows the figures keeps the memory");
        assert_eq!(figures.waits().latencies.count(), 0);
    }
}
