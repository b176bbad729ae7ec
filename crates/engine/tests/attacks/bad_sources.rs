use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use migration::{Outcome, Status};
use ram::{DirtyLog, Ram};
use state::DeviceState;
use transport::Address;
use whimbrel_engine::{MachineError, SourceMachine};
use wire::{DeviceInfo, Encoding, Hello, Message, Offer, Role, Run, SessionId};

use crate::{
    assert_moves, assert_moves_soon, assert_runs_here, checked, destination,
    machine::{
        CounterV1, Machine, description, devices, ram_of,
        travel::{self, Destination, assert_arrived_whole, migrate, migrate_as, new_session},
    },
    peer::{GoodStart, Peer, channel_greeting, hello},
    running_machine, watch,
};

/// Waits until the destination serves nobody.
pub(crate) fn wait_until_free(destination: &Destination) {
    wait_until(|| destination.handle.snapshot().status == Status::Setup);
}

fn wait_until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "it did not happen");
        std::thread::yield_now();
    }
}

fn last_failure(destination: &Destination) -> String {
    destination.handle.snapshot().last_failure.unwrap_or_default()
}

/// A machine that says of itself what a test wants.
struct Disguised {
    machine: Arc<Machine>,
    ram: Ram,
    devices: Vec<DeviceInfo>,
    description: DeviceState,
}

impl Disguised {
    fn new(machine: &Arc<Machine>) -> Self {
        Self {
            machine: machine.clone(),
            ram: machine.ram.clone(),
            devices: devices(),
            description: description(),
        }
    }
}

impl SourceMachine for Disguised {
    fn ram(&self) -> Ram {
        self.ram.clone()
    }
    fn dirty_log(&self) -> Arc<dyn DirtyLog> {
        self.machine.dirty_log()
    }
    fn vcpu_times(&self) -> Option<whimbrel_engine::VcpuTimes> {
        None
    }
    fn devices(&self) -> Vec<DeviceInfo> {
        self.devices.clone()
    }
    fn description(&self) -> Result<DeviceState, MachineError> {
        Ok(self.description.clone())
    }
    fn flush_ahead(&self, _: Duration) -> Result<Option<Duration>, MachineError> {
        Ok(None)
    }
    fn is_running(&self) -> bool {
        self.machine.is_running()
    }
    fn stop(&self) -> Result<bool, MachineError> {
        self.machine.stop()
    }
    fn save(&self) -> Result<Vec<DeviceState>, MachineError> {
        self.machine.save()
    }
    fn release_disks(&self) -> Result<(), MachineError> {
        self.machine.release_disks()
    }
    fn resume(&self, run: bool) -> Result<(), MachineError> {
        self.machine.resume(run)
    }
}

#[test]
fn another_machine_is_refused_with_every_reason() {
    watch::panics();
    let machine = running_machine();
    let destination = destination(&machine);
    let mut other = Disguised::new(&machine);
    other.ram = ram_of(64);
    (other.devices[0].version, other.devices[0].oldest) = (9, 9);
    other.devices.push(DeviceInfo::new("tape0", "tape", 1..=1));
    other.description = DeviceState::encode("machine", &CounterV1 { writes: 77 }).unwrap();
    let (_handle, notes) = migrate(Arc::new(other), destination.address(), checked());
    let Outcome::Failed(reason) = notes.outcome() else { panic!("it cannot have succeeded") };
    for part in ["Memory differs", "comes in version 9", "'tape0'", "Another kind of machine"] {
        assert!(reason.contains(part), "'{part}' is missing in: {reason}");
        wait_until(|| last_failure(&destination).contains(part));
    }
    assert_runs_here(&machine, &destination);
    assert_moves(&machine, &destination);
}

#[test]
fn another_version_is_refused_and_both_sides_say_why() {
    watch::panics();
    let machine = running_machine();
    let destination = destination(&machine);
    let address = destination.address();
    for (newest, oldest) in [(0, 0), (9, 9), (u16::MAX, 2)] {
        let offer = Offer { newest, oldest, release: "other".into(), ..Offer::of("") };
        // A peer that goes on all the same is not listened to.
        let mut source = Peer::connect(address);
        source.greet(&offer, Role::Control, new_session());
        source.say(&Message::Hello(hello(&machine, new_session(), 1)));
        assert_eq!(source.hear(), None, "the connection ends");
        let (_handle, notes) = migrate_as(&offer, machine.clone(), address, checked());
        let Outcome::Failed(reason) = notes.outcome() else { panic!("it cannot have succeeded") };
        for part in ["(release other)", "(release test)", "upgrade the older"] {
            assert!(reason.contains(part), "'{part}' is missing in: {reason}");
        }
    }
    assert_runs_here(&machine, &destination);
    assert_moves(&machine, &destination);
}

#[test]
fn a_source_that_goes_away_in_the_middle_of_anything_is_forgotten() {
    watch::panics();
    let machine = running_machine();
    let destination = destination(&machine);
    let address = destination.address();
    let whole = Message::Hello(hello(&machine, new_session(), 1)).encode(0).unwrap();
    for length in (0..whole.len()).step_by(7) {
        let mut source = Peer::connect(address);
        source.greet(&Offer::of("test"), Role::Control, new_session());
        source.throw(&whole[..length]);
    }
    for length in [0, 1, 7, 8, 9, 63] {
        let session = new_session();
        let mut source = Peer::connect(address);
        source.say(&Message::Hello(hello(&machine, session, 2)));
        let answer = source.hear();
        assert!(matches!(answer, Some(Message::Accept(_))), "{answer:?}");
        let greeting = channel_greeting(&Offer::of("test"), session, 0);
        Peer::connect(address).throw(&greeting[..length]);
        drop(source);
        wait_until_free(&destination);
    }
    for length in [1, 16, 20, 40, 41, 2000, 4135] {
        let mut source = GoodStart::new(address, &machine, 2);
        let run = Run { first_page: 3, pages: 1, encoding: Encoding::Raw };
        let mut frame = source.channels[1].batch(0, &[run]);
        frame.extend_from_slice(&[5; 4096]);
        source.channels[1].throw(&frame[..length]);
        source.channels.remove(1);
        // The others stay: the destination must not wait for them.
        assert!(matches!(source.control.hear(), Some(Message::Abort { .. })), "after {length} bytes");
        source.control.wait_for_end();
        wait_until_free(&destination);
    }
    assert_runs_here(&machine, &destination);
    assert_moves(&machine, &destination);
}

#[test]
fn a_source_that_stops_in_the_middle_of_a_frame_can_be_cancelled() {
    watch::panics();
    let machine = running_machine();
    let destination = destination(&machine);
    let mut source = GoodStart::new(destination.address(), &machine, 2);
    let run = Run { first_page: 3, pages: 1, encoding: Encoding::Raw };
    let frame = source.channels[0].batch(0, &[run]);
    source.channels[0].throw(&frame);
    source.channels[1].end_round(0, false, 0);
    source.control.throw(b"WB");
    destination.handle.cancel();
    assert!(matches!(source.control.hear(), Some(Message::Abort { .. })));
    wait_until_free(&destination);
    assert_moves(&machine, &destination);
}

#[test]
fn a_second_source_is_told_to_come_later_and_the_first_arrives() {
    watch::panics();
    let machine = running_machine();
    let destination = destination(&machine);
    let slow = checked().max_bandwidth(1 << 20);
    let (first, notes) = migrate(machine.clone(), destination.address(), slow);
    while first.snapshot().sent_bytes == 0 {
        std::thread::yield_now();
    }
    let second = running_machine();
    let (_handle, refused) = migrate(second.clone(), destination.address(), checked());
    let Outcome::Failed(reason) = refused.outcome() else { panic!("two machines in one place") };
    assert!(reason.contains("busy"), "{reason}");
    assert!(second.running.load(std::sync::atomic::Ordering::SeqCst));
    first.set_live(0, Duration::from_millis(300), 0);
    assert_arrived_whole(&machine, &destination, &notes);
    watch::assert_no_panic();
}

#[test]
fn what_is_refused_leaves_the_place_as_it_was_and_the_next_source_is_served_at_once() {
    watch::panics();
    let machine = running_machine();
    let destination = destination(&machine);
    let address = destination.address();
    for _ in 0..3 {
        let mut refused = Peer::connect(address);
        let good = hello(&machine, new_session(), 1);
        let other = DeviceState { kind: "another".into(), ..description() };
        refused.say(&Message::Hello(Hello { machine: other, ..good }));
        assert!(matches!(refused.hear(), Some(Message::Refuse(_))));
        refused.wait_for_end();
    }
    let mut next = Peer::connect(address);
    next.say(&Message::Hello(hello(&machine, new_session(), 1)));
    assert!(matches!(next.hear(), Some(Message::Accept(_))));
    let discards = || destination.arrival.discards.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!(discards(), 0, "there was nothing to throw away");
    drop(next);
    wait_until(|| discards() == 1);
    assert_moves_soon(&machine, &destination);
}

#[test]
fn a_source_that_waits_is_not_displaced_by_what_is_left_of_attempts_that_are_over() {
    watch::panics();
    let machine = running_machine();
    let destination = destination(&machine);
    let address = destination.address();
    let first = GoodStart::new(address, &machine, 1);
    let introduce = || {
        let mut source = Peer::connect(address);
        source.say(&Message::Hello(hello(&machine, new_session(), 1)));
        source
    };
    // Who asks is answered when those that came before were heard.
    let settle = || {
        let mut other = Peer::connect(address);
        other.say(&Message::Ask { session: new_session() });
        other.hear().unwrap();
    };
    let mut next = introduce();
    settle();
    for _ in 0..20 {
        drop(introduce());
    }
    settle();
    drop(first);
    let heard = next.hear_news();
    assert!(matches!(heard, Some(Message::Accept(_))), "{heard:?}");
    drop(next);
    assert_moves_soon(&machine, &destination);
}

#[test]
fn channels_that_do_not_belong_are_closed_and_those_that_do_are_not_disturbed() {
    watch::panics();
    let machine = running_machine();
    let destination = destination(&machine);
    let address = destination.address();
    Peer::channel(address, new_session(), 0).wait_for_end();
    let session = new_session();
    let mut control = Peer::connect(address);
    control.say(&Message::Hello(hello(&machine, session, 2)));
    assert!(matches!(control.hear(), Some(Message::Accept(_))));
    let mut channels = vec![Peer::channel(address, session, 1)];
    for (session, index) in [(new_session(), 0), (SessionId::NONE, 0), (session, 2), (session, u16::MAX)] {
        Peer::channel(address, session, index).wait_for_end();
    }
    let mut other_version = Peer::connect(address);
    let other = Offer { newest: 2, oldest: 2, ..Offer::of("test") };
    other_version.throw(&channel_greeting(&other, session, 0));
    other_version.wait_for_end();
    let mut twice = Peer::channel(address, session, 1);
    twice.wait_for_end();
    channels.insert(0, Peer::channel(address, session, 0));
    assert_eq!(control.hear(), Some(Message::ChannelsOpen));
    Peer::channel(address, session, 0).wait_for_end();
    let mut start = GoodStart { control, channels, session };
    start.send_all(&machine);
    assert!(matches!(start.control.hear(), Some(Message::Ready(_))));
    start.control.say(&Message::Abort { reason: "enough".into() });
    wait_until_free(&destination);
    assert_moves(&machine, &destination);
}

#[test]
fn the_answer_to_a_question_is_that_the_machine_runs_when_the_link_was_lost_after_go() {
    watch::panics();
    let machine = running_machine();
    machine.halt();
    let destination = destination(&machine);
    let address = destination.address();
    let mut start = GoodStart::until_ready(address, &machine);
    start.control.say(&Message::Go);
    let session = start.session;
    drop(start);
    wait_until(|| destination.arrival.ran.lock().unwrap().is_some());
    // However often it asks.
    for _ in 0..3 {
        let mut source = Peer::connect(address);
        source.say(&Message::Ask { session });
        let answer = source.hear();
        assert!(matches!(answer, Some(Message::Running(_))), "{answer:?}");
    }
    let mut stranger = Peer::connect(address);
    stranger.say(&Message::Ask { session: new_session() });
    assert_eq!(stranger.hear(), Some(Message::UnknownSession));
    let mut source = Peer::connect(address);
    source.say(&Message::Ask { session });
    assert!(matches!(source.hear(), Some(Message::Running(_))));
    source.say(&Message::Bye);
    assert_eq!(destination.notes.outcome(), Outcome::Completed);
    destination.handle.join();
    assert_eq!(*destination.arrival.ran.lock().unwrap(), Some(true));
    watch::assert_no_panic();
}

#[test]
fn a_question_before_go_gives_the_machine_back() {
    watch::panics();
    let machine = running_machine();
    machine.halt();
    let destination = destination(&machine);
    let mut start = GoodStart::until_ready(destination.address(), &machine);
    let mut source = Peer::connect(destination.address());
    source.say(&Message::Ask { session: start.session });
    assert!(matches!(source.hear(), Some(Message::NotRunning { .. })));
    // A go that was on its way comes too late.
    start.control.say(&Message::Go);
    start.control.wait_for_end();
    let mut source = Peer::connect(destination.address());
    source.say(&Message::Ask { session: start.session });
    assert!(matches!(source.hear(), Some(Message::NotRunning { .. })), "the answer must stay the same");
    wait_until_free(&destination);
    machine.resume(true).unwrap();
    assert_runs_here(&machine, &destination);
    assert_moves(&machine, &destination);
}

#[test]
fn a_source_that_talks_and_does_not_listen_neither_fills_memory_nor_blocks_the_next() {
    watch::panics();
    let folder = tempfile::tempdir().unwrap();
    let machine = running_machine();
    let destination = travel::destination(&Address::Unix(folder.path().join("in.sock")), &machine);
    let mut source = GoodStart::new(destination.address(), &machine, 1);
    let before = watch::resident();
    let mut pings = 0;
    // A unix socket holds some hundred kilobytes; then nothing moves until one side gives up.
    while pings < 2_000_000 && source.control.say(&Message::Ping(pings)) {
        pings += 1;
    }
    assert!(pings < 2_000_000, "nobody ever stopped it");
    let grown = watch::resident().saturating_sub(before);
    assert!(grown < 64, "{grown} MiB");
    wait_until_free(&destination);
    assert_moves(&machine, &destination);
}

#[test]
fn messages_do_not_pile_up_while_the_machine_is_loaded() {
    watch::panics();
    let machine = running_machine();
    machine.halt();
    let folder = tempfile::tempdir().unwrap();
    let destination = travel::destination(&Address::Unix(folder.path().join("in.sock")), &machine);
    *destination.arrival.must_wait.lock().unwrap() = true;
    let mut start = GoodStart::new(destination.address(), &machine, 2);
    start.send_all(&machine);
    let before = watch::resident();
    let long = Message::Abort { reason: "x".repeat(1 << 20) };
    let sent = (0..400).take_while(|_| start.control.say(&long)).count();
    let grown = watch::resident().saturating_sub(before);
    assert!(sent < 400 && grown < 200, "{sent} MiB were taken, {grown} MiB kept");
    destination.arrival.let_load();
    drop(start);
    wait_until_free(&destination);
    machine.resume(true).unwrap();
    assert_moves(&machine, &destination);
}

#[test]
fn stopping_a_destination_ends_all_its_threads_whatever_the_source_does() {
    watch::panics();
    for stage in 0..4 {
        let machine = running_machine();
        machine.halt();
        let destination = destination(&machine);
        let address = destination.address();
        let mut source = Peer::connect(address);
        let started = match stage {
            0 => None,
            1 => {
                source.say(&Message::Hello(hello(&machine, new_session(), 3)));
                assert!(matches!(source.hear(), Some(Message::Accept(_))));
                None
            }
            2 => Some(GoodStart::new(address, &machine, 3)),
            _ => Some(GoodStart::until_ready(address, &machine)),
        };
        destination.handle.stop();
        destination.handle.join();
        drop((source, started));
    }
    watch::assert_no_panic();
}
