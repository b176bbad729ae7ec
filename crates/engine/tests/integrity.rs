//! What digests find that nothing else does.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod machine;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use migration::{Outcome, Params};
use ram::{DirtyLog, Ram};
use state::DeviceState;
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend as _, MmapRegion};
use whimbrel_engine::{MachineError, SourceMachine};
use wire::{DeviceInfo, Digest};

use machine::{
    Machine,
    travel::{assert_arrived_whole, destination, loopback, migrate},
};

/// A machine whose dirty log misses a write to a page that is written at no other time.
struct Forgetful(Arc<Machine>);

const MISSED: u64 = 100;

impl SourceMachine for Forgetful {
    fn ram(&self) -> Ram {
        self.0.ram()
    }
    fn dirty_log(&self) -> Arc<dyn DirtyLog> {
        self.0.dirty_log()
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
    fn flush_ahead(&self, _: Duration) -> Result<Option<Duration>, MachineError> {
        Ok(None)
    }
    fn is_running(&self) -> bool {
        self.0.is_running()
    }
    fn stop(&self) -> Result<bool, MachineError> {
        let was_running = self.0.stop()?;
        let ram = self.0.ram();
        ram.memory().write_obj(u64::MAX, GuestAddress(MISSED * 4096 + 64))?;
        // Nor does the log of the VMM's own writes know; what else it knows is in the machine's, too.
        ram.memory().iter().for_each(|region| MmapRegion::bitmap(region).reset());
        Ok(was_running)
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
    let params = Params::default().digest(Digest::Full).channels(3);
    let (_handle, notes) =
        migrate(Arc::new(Forgetful(machine.clone())), destination.address(), params.clone());
    let Outcome::Failed(reason) = notes.outcome() else { panic!("a machine that lost a page was run") };
    assert!(reason.contains("The dirty log has missed a write"), "{reason}");
    assert!(reason.contains("ram.low 0x64000–0x64fff"), "{reason}");
    assert!(machine.running.load(Ordering::SeqCst), "it runs on at the source");

    // With a log that forgets nothing it moves.
    let (_handle, notes) = migrate(machine.clone(), destination.address(), params);
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
            let params = Params::default().digest(digest).channels(channels);
            let (_handle, notes) = migrate(machine.clone(), destination.address(), params);
            assert_arrived_whole(&machine, &destination, &notes);
            let attempt = destination.handle.snapshot().attempt.unwrap();
            assert_eq!((attempt.digest, attempt.compared), (digest, Some(Ok(()))));
        }
    }
}
