//! Whole machines on KVM, with guests of a few instructions.

use std::{path::Path, sync::mpsc::Receiver};

use config::{Config, RawConfig};
use vm_memory::{Bytes as _, GuestAddress};

use super::*;
use crate::{
    arch::Transit,
    events::MachineEvent,
    testing::{self, guest},
};

/// Counts on its serial port: mov dx,0x3f8; again: inc al; out dx,al; jmp again
const COUNTER: [u8; 9] = [0x66, 0xba, 0xf8, 0x03, 0xfe, 0xc0, 0xee, 0xeb, 0xfb];

/// A configuration with a serial port that goes to a file.
pub(super) struct Bench {
    directory: tempfile::TempDir,
    extra: String,
}

impl Bench {
    pub(super) fn new(code: &[u8], extra: &str) -> Self {
        Self::with_kernel(&std::fs::read(guest(code).path()).unwrap(), extra)
    }

    pub(super) fn with_kernel(kernel: &[u8], extra: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("kernel"), kernel).unwrap();
        let memory = if extra.contains("memory:") { "" } else { "memory: 64M\n" };
        Self { directory, extra: format!("{memory}{extra}") }
    }

    fn config(&self) -> Config {
        let yaml = format!(
            "kernel: {}\nserial: file:{}\nkeyboard: true\n{}",
            self.directory.path().join("kernel").display(),
            self.serial().display(),
            self.extra
        );
        Config::new(RawConfig::from_yaml(&yaml, "test").unwrap()).unwrap()
    }

    pub(super) fn serial(&self) -> std::path::PathBuf {
        self.directory.path().join("serial")
    }

    pub(super) fn boot(&self) -> (Machine, Receiver<MachineEvent>) {
        let (events, received) = Events::channel();
        (Machine::boot(&self.config(), events).unwrap(), received)
    }

    fn incoming(&self) -> (Incoming, Receiver<MachineEvent>) {
        let (events, received) = Events::channel();
        (
            Incoming::prepare(
                &self.config(),
                &Keep::open(&self.config(), crate::PageFaults::open()).unwrap(),
                events,
            )
            .unwrap(),
            received,
        )
    }

    /// Moves a paused machine into a new one in this process.
    pub(super) fn moved(&self, from: &Machine) -> (Machine, Receiver<MachineEvent>) {
        let states = from.save().unwrap();
        let (incoming, received) = self.incoming();
        assert_eq!(incoming.differences(from.description()), Differences::default());
        copy(from.ram(), incoming.ram());
        (incoming.restore(from.description(), &states, Transit::now()).unwrap(), received)
    }
}

impl Machine {
    /// Makes the state after power-on one that KVM refuses: a reset gets half-way.
    pub(crate) fn forget_how_it_was_at_power_on(&mut self) {
        let mut state = serde_json::to_value(&self.board.power_on.vcpus[0]).unwrap();
        state["mp_state"] = 99.into();
        self.board.power_on.vcpus[0] = serde_json::from_value(state).unwrap();
    }
}

fn copy(from: &Ram, to: &Ram) {
    for block in from.blocks() {
        let mut page = vec![0; 1 << 20];
        for offset in (0..block.bytes()).step_by(page.len()) {
            let at = GuestAddress(block.guest_address() + offset);
            from.memory().read_slice(&mut page, at).unwrap();
            if page.iter().any(|byte| *byte != 0) {
                to.memory().write_slice(&page, at).unwrap();
            }
        }
    }
}

pub(super) fn wait_for(path: &Path, done: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let start = std::time::Instant::now();
    loop {
        let written = std::fs::read(path).unwrap_or_default();
        if done(&written) {
            return written;
        }
        assert!(start.elapsed() < testing::PATIENCE, "the guest wrote only {} bytes", written.len());
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// Every byte is one more than the one before.
fn counts(bytes: &[u8]) -> bool {
    bytes.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1))
}

#[test]
fn a_guest_goes_on_where_it_was_saved_over_and_over() {
    if !testing::kvm_is_usable("a_guest_goes_on_where_it_was_saved_over_and_over") {
        return;
    }
    let bench = Bench::new(&COUNTER, "cpus: 2");
    let (mut machine, _events) = bench.boot();
    let mut seen = 0;
    for _ in 0..5 {
        machine.resume();
        seen = wait_for(&bench.serial(), |written| written.len() > seen + 50).len();
        machine.pause().unwrap();
        let (next, _) = bench.moved(&machine);
        assert_eq!(next.description(), machine.description());
        machine = next;
    }
    machine.resume();
    let written = wait_for(&bench.serial(), |written| written.len() > seen + 50);
    machine.pause().unwrap();
    assert!(counts(&written), "{written:?}");
}

#[test]
fn a_saved_machine_runs_on() {
    if !testing::kvm_is_usable("a_saved_machine_runs_on") {
        return;
    }
    let bench = Bench::new(&COUNTER, "");
    let (machine, _events) = bench.boot();
    assert!(matches!(
        {
            machine.resume();
            machine.save()
        },
        Err(SaveError::Running)
    ));
    machine.pause().unwrap();
    let first = machine.save().unwrap();
    let seen = wait_for(&bench.serial(), |_| true).len();
    assert_eq!(machine.save().unwrap().len(), first.len());
    machine.resume();
    assert!(counts(&wait_for(&bench.serial(), |written| written.len() > seen + 50)));
}

#[test]
fn the_description_names_the_states_that_are_saved() {
    if !testing::kvm_is_usable("the_description_names_the_states_that_are_saved") {
        return;
    }
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(1 << 20).unwrap();
    let bench = Bench::new(&COUNTER, &format!("cpus: 3\ndisks:\n - path: {}", image.path().display()));
    let (machine, _events) = bench.boot();
    let states = machine.save().unwrap();
    let saved: Vec<_> = states.iter().map(|state| (state.id.clone(), state.kind.clone())).collect();
    let named = &machine.description().devices;
    assert_eq!(
        saved,
        named.iter().map(|device| (device.id.clone(), device.kind.clone())).collect::<Vec<_>>()
    );
    for (state, device) in states.iter().zip(named) {
        // A machine that does not wait for its storage says no more than before there was such.
        let expected = if state.kind == "machine-requests" { 1 } else { device.version };
        assert_eq!(state.version, expected, "{}", state.kind);
    }
    assert!(Machine::boot(&bench.config(), Events::channel().0).is_err(), "the disk is in use");
}

#[test]
fn states_must_be_complete_and_nothing_more() {
    if !testing::kvm_is_usable("states_must_be_complete_and_nothing_more") {
        return;
    }
    let bench = Bench::new(&COUNTER, "");
    let (machine, _events) = bench.boot();
    let states = machine.save().unwrap();
    let restore = |states: &[state::DeviceState]| {
        bench.incoming().0.restore(machine.description(), states, Transit::now()).unwrap_err()
    };
    for left_out in 0..states.len() {
        let mut fewer = states.clone();
        let gone = fewer.remove(left_out);
        let error = restore(&fewer).to_string();
        assert!(error.contains(&format!("no state for device '{}'", gone.id)), "{error}");
    }
    let mut twice = states.clone();
    twice.push(states[0].clone());
    assert!(restore(&twice).to_string().contains("twice"));
    let mut described_otherwise = machine.description().clone();
    described_otherwise.msrs.pop();
    let error =
        bench.incoming().0.restore(&described_otherwise, &states, Transit::now()).unwrap_err().to_string();
    assert!(error.contains("vcpu0") && error.contains("registers"), "{error}");
    let mut more = states;
    more.push(state::DeviceState { id: "tape0".into(), kind: "tape".into(), version: 1, body: vec![] });
    assert!(restore(&more).to_string().contains("tape0"));
}

#[test]
fn a_machine_that_does_not_fit_is_refused_with_every_reason() {
    if !testing::kvm_is_usable("a_machine_that_does_not_fit_is_refused_with_every_reason") {
        return;
    }
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(1 << 20).unwrap();
    let bench = Bench::new(&COUNTER, &format!("disks:\n - path: {}", image.path().display()));
    let (machine, _events) = bench.boot();
    let states = machine.save().unwrap();
    let mut offered = machine.description().clone();
    offered.msrs.push(0xdead);
    let leaf = offered.cpuid.iter_mut().find(|entry| (entry.leaf, entry.subleaf) == (7, 0)).unwrap();
    leaf.ebx |= 1 << 30;
    offered.disks[0].capacity_sectors *= 2;
    offered.disks[0].block_bytes = 1000;
    for device in &mut offered.devices {
        match (device.id.as_str(), &mut device.virtio) {
            ("disk0", Some(virtio)) => virtio.features |= 1 << 60,
            ("keyboard0", Some(virtio)) => virtio.queue_sizes[0] *= 2,
            _ => {}
        }
    }
    let found = bench.incoming().0.differences(&offered);
    let parts = [
        "0xdead",
        "0x7.0 ebx, bits 30",
        "4096 sectors on the source and 2048 here",
        "blocks of 1000 bytes",
        "features 0x1000000000000000",
        "The queues of device 'keyboard0'",
    ];
    for part in parts {
        assert!(found.unfit.iter().any(|reason| reason.contains(part)), "{part}: {found:#?}");
    }
    assert_eq!((found.unfit.len(), found.identity.len()), (parts.len(), 0), "{found:#?}");
    let refused = |offered: &MachineDescription| {
        bench.incoming().0.restore(offered, &states, Transit::now()).unwrap_err()
    };
    assert!(matches!(refused(&offered), RestoreError::Mismatch(_)));
    let one_more = MachineDescription { cpus: 2, ..machine.description().clone() };
    assert!(matches!(refused(&one_more), RestoreError::Mismatch(_)), "whatever the handshake was told");
}

#[test]
fn registers_that_a_guest_cannot_reach_do_not_travel_and_are_no_obstacle() {
    if !testing::kvm_is_usable("registers_that_a_guest_cannot_reach_do_not_travel_and_are_no_obstacle") {
        return;
    }
    let bench = Bench::new(&COUNTER, "cpu: x86-64");
    let (mut machine, _events) = bench.boot();
    // Hyper-V's, and what virtual machines in the guest may use.
    const UNREACHABLE: [u32; 2] = [0x4000_0000, 0x480];
    let saved = machine.description().msrs.clone();
    assert!(saved.contains(&0x174) && !UNREACHABLE.iter().any(|index| saved.contains(index)), "{saved:#x?}");

    // A release before saved all that KVM takes, on a host that takes more than this one.
    let mut offered = machine.description().clone();
    offered.msrs.extend(UNREACHABLE);
    assert_eq!(bench.incoming().0.differences(&offered), Differences::default());
    offered.msrs.push(0x1b_0000);
    assert_eq!(bench.incoming().0.differences(&offered).unfit.len(), 1);

    let all = machine.board.processor.accepted_msrs.clone();
    machine.board.processor.msrs.clone_from(&all);
    machine.description.msrs = all;
    let states = machine.save().unwrap();
    let moved = bench.incoming().0.restore(machine.description(), &states, Transit::now()).unwrap();
    assert_eq!(moved.description().msrs, saved);
    moved.save().unwrap();
}

#[test]
fn another_machine_is_told_by_each_of_its_names_and_keeps_its_uuid() {
    if !testing::kvm_is_usable("another_machine_is_told_by_each_of_its_names_and_keeps_its_uuid") {
        return;
    }
    let bench = Bench::new(&COUNTER, "name: db-2\nuuid: 6c1a4b5e-7f0e-4a3c-9b57-3d2f9a1c0e11");
    let (machine, _events) = bench.boot();
    let offered = MachineDescription { name: "db-1\n".into(), uuid: None, ..machine.description().clone() };
    let found = bench.incoming().0.differences(&offered);
    assert_eq!(found.unfit, Vec::<String>::new());
    let identity: Vec<_> = found.identity.iter().map(|(identity, _)| *identity).collect();
    assert_eq!(identity, [config::Identity::Name, config::Identity::Uuid]);
    let (name, uuid) = (&found.identity[0].1, &found.identity[1].1);
    assert_eq!(name, "The machine is called 'db-1\u{fffd}', this side was started for 'db-2'");
    assert!(uuid.contains("UUID is none") && uuid.contains("6c1a4b5e"), "{uuid}");
    // An operator may insist, and so it is not asked again when it is here.
    let moved = bench.incoming().0.restore(&offered, &machine.save().unwrap(), Transit::now()).unwrap();
    assert_eq!((moved.description().name.as_str(), moved.description().uuid), ("db-2", None));
}

#[test]
fn the_dirty_log_shows_exactly_what_the_guest_wrote() {
    if !testing::kvm_is_usable("the_dirty_log_shows_exactly_what_the_guest_wrote") {
        return;
    }
    // mov dx,0x3f8; again: mov edi,0x2000000; mov ecx,100; page: mov [edi],al; add edi,0x2000; loop page;
    // out dx,al; inc al; jmp again
    let writer = [
        0x66, 0xba, 0xf8, 0x03, 0xbf, 0, 0, 0, 2, 0xb9, 100, 0, 0, 0, 0x88, 0x07, 0x81, 0xc7, 0, 0x20, 0, 0,
        0xe2, 0xf6, 0xee, 0xfe, 0xc0, 0xeb, 0xe7,
    ];
    let bench = Bench::new(&writer, "");
    let (machine, _events) = bench.boot();
    let log = machine.dirty_log();
    let pages = machine.ram().blocks()[0].pages();
    let mut bits = vec![0u64; (pages / 64) as usize];
    log.start().unwrap();
    log.fetch(0, &mut bits).unwrap();
    assert_eq!(count(&bits), pages, "every page is dirty at first");
    log.clear(0, 0, pages, &bits).unwrap();
    log.fetch(0, &mut bits).unwrap();
    assert_eq!(count(&bits), 0);

    for _ in 0..3 {
        machine.resume();
        wait_for_passes(&machine, GuestAddress(0x200_0000), 2);
        machine.pause().unwrap();
        log.fetch(0, &mut bits).unwrap();
        let expected: Vec<u64> = (0..100).map(|index| 0x2000 + 2 * index).collect();
        assert_eq!(set_pages(&bits), expected);
        // Reading does not clear, and clearing half clears half.
        log.clear(0, 0, 0x2040, &bits).unwrap();
        log.fetch(0, &mut bits).unwrap();
        assert_eq!(set_pages(&bits), expected[32..]);
        log.clear(0, 0x2040, pages - 0x2040, &bits[0x2040 / 64..]).unwrap();
    }
    assert!(log.clear(0, 1, 64, &bits).is_err());
    assert!(log.clear(0, 0, pages + 64, &bits).is_err());
    log.stop().unwrap();
}

/// Waits until the byte at `place` was seen to become another one so many times. What the serial port has printed says less: it comes later,
/// and so some of it can be of before the machine went on.
fn wait_for_passes(machine: &Machine, place: GuestAddress, passes: usize) {
    let start = std::time::Instant::now();
    let byte = || machine.ram().memory().read_obj::<u8>(place).unwrap();
    for _ in 0..passes {
        let before = byte();
        while byte() == before {
            assert!(start.elapsed() < testing::PATIENCE, "the guest does not go on");
            std::thread::yield_now();
        }
    }
}

fn count(bits: &[u64]) -> u64 {
    bits.iter().map(|word| u64::from(word.count_ones())).sum()
}

fn set_pages(bits: &[u64]) -> Vec<u64> {
    (0..bits.len() as u64 * 64).filter(|page| bits[(page / 64) as usize] >> (page % 64) & 1 == 1).collect()
}

#[test]
fn a_reset_guest_starts_anew_in_empty_memory() {
    if !testing::kvm_is_usable("a_reset_guest_starts_anew_in_empty_memory") {
        return;
    }
    // Prints the byte at 32 MiB, sets it, asks the keyboard controller for a reset:
    // mov dx,0x3f8; mov al,[0x2000000]; out dx,al; mov byte [0x2000000],7; mov al,0xfe; out 0x64,al; again: jmp again
    let code = [
        0x66, 0xba, 0xf8, 0x03, 0xa0, 0, 0, 0, 2, 0xee, 0xc6, 0x05, 0, 0, 0, 2, 7, 0xb0, 0xfe, 0xe6, 0x64,
        0xeb, 0xfe,
    ];
    let bench = Bench::new(&code, "cpus: 2");
    let launcher = Launcher::start().unwrap();
    let (machine, events) = bench.boot();
    machine.resume();
    for round in 1..=3 {
        assert_eq!(events.recv_timeout(testing::PATIENCE), Ok(MachineEvent::Reset));
        assert_eq!(wait_for(&bench.serial(), |written| written.len() >= round), vec![0; round]);
        machine.reset(&launcher, None::<fn() -> bool>).unwrap();
        assert!(machine.is_running());
    }
}
