//! What digests find that nothing else does.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod machine;

use std::{
    io,
    sync::{Arc, atomic::Ordering},
};

use migration::{Outcome, Params};
use ram::{DirtyLog, Ram};
use state::DeviceState;
use vm_memory::{GuestMemoryBackend, MmapRegion};
use whimbrel_engine::{MachineError, SourceMachine};
use wire::{DeviceInfo, Digest};

use machine::{
    Machine,
    travel::{assert_arrived_whole, destination, loopback, migrate},
};

/// A machine whose dirty log forgets what was written to page 0.
struct Forgetful(Arc<Machine>);

struct Log {
    log: Arc<dyn DirtyLog>,
    ram: Ram,
}

impl DirtyLog for Log {
    fn start(&self) -> io::Result<()> {
        self.log.start()
    }
    fn stop(&self) -> io::Result<()> {
        self.log.stop()
    }
    fn fetch(&self, block: usize, bits: &mut [u64]) -> io::Result<()> {
        self.log.fetch(block, bits)?;
        bits[0] &= !1;
        // The writes of this machine are in the VMM's own log, too.
        self.ram.memory().iter().for_each(|region| MmapRegion::bitmap(region).reset());
        Ok(())
    }
    fn clear(&self, block: usize, first_page: u64, pages: u64, bits: &[u64]) -> io::Result<()> {
        self.log.clear(block, first_page, pages, bits)
    }
}

impl SourceMachine for Forgetful {
    fn ram(&self) -> Ram {
        self.0.ram()
    }
    fn dirty_log(&self) -> Arc<dyn DirtyLog> {
        Arc::new(Log { log: self.0.dirty_log(), ram: self.0.ram() })
    }
    fn vcpu_times(&self) -> Option<whimbrel_engine::VcpuTimes> {
        None
    }
    fn devices(&self) -> Vec<DeviceInfo> {
        self.0.devices()
    }
    fn description(&self) -> Result<DeviceState, MachineError> {
        self.0.description()
    }
    fn stop(&self) -> Result<bool, MachineError> {
        self.0.stop()
    }
    fn save(&self) -> Result<Vec<DeviceState>, MachineError> {
        self.0.save()
    }
    fn release_disks(&self) -> Result<(), MachineError> {
        self.0.release_disks()
    }
    fn resume(&self, run: bool) -> Result<(), MachineError> {
        self.0.resume(run)
    }
}

#[test]
fn a_write_that_the_dirty_log_missed_is_found_and_the_machine_stays_where_it_is_whole() {
    let machine = Machine::new(machine::ram(), 0);
    machine.fill();
    machine.run(8);
    let destination = destination(&loopback(), &machine);
    let params = Params { digest: Digest::Full, channels: 3, ..Params::default() };
    let (_handle, notes) =
        migrate(Arc::new(Forgetful(machine.clone())), destination.handle.address(), params.clone());
    let Outcome::Failed(reason) = notes.outcome() else { panic!("a machine that lost a page was run") };
    assert!(reason.contains("The dirty log has missed a write"), "{reason}");
    assert!(reason.contains("ram.low 0x0–0xfff"), "{reason}");
    assert!(machine.running.load(Ordering::SeqCst), "it runs on at the source");

    // With a log that forgets nothing it moves.
    let (_handle, notes) = migrate(machine.clone(), destination.handle.address(), params);
    assert_arrived_whole(&machine, &destination, &notes);
}

#[test]
fn a_busy_machine_is_not_taken_for_a_damaged_one() {
    for digest in [Digest::Transfer, Digest::Full] {
        for channels in [1, 4] {
            let machine = Machine::new(machine::ram(), 0);
            machine.fill();
            machine.run(machine::PAGES);
            let destination = destination(&loopback(), &machine);
            let params = Params { digest, channels, ..Params::default() };
            let (_handle, notes) = migrate(machine.clone(), destination.handle.address(), params);
            assert_arrived_whole(&machine, &destination, &notes);
            let attempt = destination.handle.snapshot().attempt.unwrap();
            assert_eq!((attempt.digest, attempt.compared), (digest, Some(Ok(()))));
        }
    }
}
