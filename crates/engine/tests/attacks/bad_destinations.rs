use std::{
    io::Read,
    net::{TcpListener, TcpStream},
    os::unix::net::UnixListener,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use migration::{Outcome, Params, Status};
use ram::{DirtyLog, Ram};
use state::{DeviceState, MAX_BODY_BYTES};
use transport::Address;
use whimbrel_engine::{MachineError, SourceMachine};
use wire::{Accept, Ack, DeviceInfo, Message, StateVersions};

use crate::{
    assert_moves, assert_runs_here, checked, destination,
    machine::{Machine, travel::migrate},
    peer::{Peer, Stream},
    running_machine, watch,
};

/// A destination that does what a test wants. Page channels are read and forgotten.
struct Impostor {
    address: Address,
    accept: Box<dyn FnMut() -> Box<dyn Stream> + Send>,
}

impl Impostor {
    fn tcp() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let accept = Box::new(move || {
            let stream: TcpStream = listener.accept().unwrap().0;
            stream.set_nodelay(true).unwrap();
            Box::new(stream) as Box<dyn Stream>
        });
        Self { address: Address::Tcp { host: "127.0.0.1".into(), port }, accept }
    }

    fn unix(folder: &tempfile::TempDir) -> Self {
        let path = folder.path().join("impostor.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let accept = Box::new(move || Box::new(listener.accept().unwrap().0) as Box<dyn Stream>);
        Self { address: Address::Unix(path), accept }
    }

    fn accept(&mut self) -> Peer {
        Peer::over((self.accept)())
    }

    /// Shakes hands, and opens `channels` channels that swallow everything.
    fn welcome(&mut self, channels: u16) -> Peer {
        let mut control = self.accept();
        assert!(matches!(control.hear(), Some(Message::Hello(_))));
        control.say(&Message::Accept(Accept { channels, reads: reads() }));
        for _ in 0..channels {
            let mut channel = (self.accept)();
            std::thread::spawn(move || {
                let mut bytes = vec![0; 1 << 16];
                while channel.read(&mut bytes).is_ok_and(|read| read > 0) {}
            });
        }
        control.say(&Message::ChannelsOpen);
        control
    }

    /// Goes on until the source has sent everything.
    fn until_complete(&mut self, channels: u16) -> Peer {
        let mut control = self.welcome(channels);
        while !matches!(control.hear_news(), Some(Message::Complete(_))) {}
        control
    }

    fn play(self, part: impl FnOnce(Self) + Send + 'static) -> JoinHandle<()> {
        std::thread::spawn(move || part(self))
    }
}

/// What a destination reads of the states of the machine.
fn reads() -> Vec<StateVersions> {
    ["counter", "ballast"].map(|kind| StateVersions { kind: kind.into(), oldest: 1, newest: 1 }).into()
}

/// A running machine migrates to the impostor; answers what the source says of the end, and how long that took.
fn deceive(
    impostor: Impostor,
    params: Params,
    part: impl FnOnce(Impostor) + Send + 'static,
) -> (Arc<Machine>, Outcome, Vec<Status>) {
    let machine = running_machine();
    let address = impostor.address.clone();
    let part = impostor.play(part);
    let (handle, notes) = migrate(machine.clone(), &address, params);
    let outcome = notes.outcome();
    handle.join();
    part.join().unwrap();
    (machine, outcome, notes.statuses.lock().unwrap().clone())
}

fn reason(outcome: Outcome) -> String {
    let Outcome::Failed(reason) = outcome else { panic!("{outcome:?}") };
    reason
}

/// The machine runs where it was, and can still go to a destination that is one.
fn assert_unharmed(machine: &Arc<Machine>) {
    let destination = destination(machine);
    assert_runs_here(machine, &destination);
    assert_moves(machine, &destination);
}

#[test]
fn whatever_answers_instead_of_a_destination_the_machine_runs_on() {
    watch::panics();
    let answers: [(&[u8], &str); 4] = [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not a Whimbrel migration stream"),
        (&[0; 16], "not a Whimbrel migration stream"),
        (b"WB\x01\x00\xFF\xFF\xFF\xFF\x00\x00\x00\x00\x00\x00\x00\x00", "over the limit"),
        (b"", "closed the connection"),
    ];
    for (answer, expected) in answers {
        let (machine, outcome, _) = deceive(Impostor::tcp(), checked(), move |mut impostor| {
            let mut control = impostor.accept();
            assert!(matches!(control.hear(), Some(Message::Hello(_))));
            control.throw(answer);
        });
        let reason = reason(outcome);
        assert!(reason.contains(expected), "{reason}");
        assert_unharmed(&machine);
    }
}

#[test]
fn an_answer_out_of_turn_ends_the_attempt_and_the_machine_runs_on() {
    watch::panics();
    let ack = Ack { nanoseconds: u64::MAX };
    let accept = |channels| Message::Accept(Accept { channels, reads: reads() });
    for answer in [
        accept(0),
        accept(3),
        accept(u16::MAX),
        Message::Ready(ack),
        Message::Running(ack),
        Message::NotRunning { reason: "no".into() },
        Message::Go,
        Message::Bye,
    ] {
        let (machine, outcome, _) = deceive(Impostor::tcp(), checked(), move |mut impostor| {
            let mut control = impostor.accept();
            assert!(matches!(control.hear(), Some(Message::Hello(_))));
            control.say(&answer);
            control.wait_for_end();
        });
        reason(outcome);
        assert_unharmed(&machine);
    }
}

#[test]
fn a_destination_that_claims_to_run_the_machine_before_go_does_not_get_it() {
    watch::panics();
    let ack = Ack { nanoseconds: 1 };
    for early in [Message::Running(ack), Message::NotRunning { reason: "no".into() }, Message::UnknownSession]
    {
        let (machine, outcome, _) = deceive(Impostor::tcp(), checked(), move |mut impostor| {
            let mut control = impostor.until_complete(2);
            control.say(&early);
            control.wait_for_end();
        });
        reason(outcome);
        assert_unharmed(&machine);
    }
}

#[test]
fn a_destination_that_never_answers_does_not_keep_a_cancel_waiting() {
    watch::panics();
    let mut impostor = Impostor::tcp();
    let address = impostor.address.clone();
    let machine = running_machine();
    let (handle, notes) = migrate(machine.clone(), &address, checked());
    let _control = impostor.accept();
    let asked = Instant::now();
    handle.cancel();
    assert_eq!(notes.outcome(), Outcome::Cancelled);
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    assert_unharmed(&machine);
}

#[test]
fn a_destination_that_never_stops_talking_does_not_keep_the_machine_stopped() {
    watch::panics();
    let params = checked().switchover_timeout(Duration::from_millis(300));
    let (machine, outcome, _) = deceive(Impostor::tcp(), params, |mut impostor| {
        let mut control = impostor.until_complete(2);
        while control.say(&Message::Pong(0)) {}
    });
    let reason = reason(outcome);
    assert!(reason.contains("switchover was not over"), "{reason}");
    assert_unharmed(&machine);
}

/// A machine with more state than a socket holds.
struct Heavy(Arc<Machine>);

const BALLAST: usize = 8;

impl SourceMachine for Heavy {
    fn ram(&self) -> Ram {
        SourceMachine::ram(self.0.as_ref())
    }
    fn dirty_log(&self) -> Arc<dyn DirtyLog> {
        self.0.dirty_log()
    }
    fn vcpu_times(&self) -> Option<whimbrel_engine::VcpuTimes> {
        None
    }
    fn devices(&self) -> Vec<DeviceInfo> {
        let ballast = |index| DeviceInfo::new(format!("ballast{index}"), "ballast", 1..=1);
        (0..BALLAST).map(ballast).collect()
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
        self.0.stop()
    }
    fn save(&self) -> Result<Vec<DeviceState>, MachineError> {
        let ballast = |index| DeviceState {
            id: format!("ballast{index}"),
            kind: "ballast".into(),
            version: 1,
            body: vec![1; MAX_BODY_BYTES],
        };
        Ok((0..BALLAST).map(ballast).collect())
    }
    fn release_disks(&self) -> Result<(), MachineError> {
        self.0.release_disks()
    }
    fn resume(&self, run: bool) -> Result<(), MachineError> {
        self.0.resume(run)
    }
}

#[test]
fn a_destination_that_stops_reading_does_not_keep_the_machine_stopped() {
    watch::panics();
    let folder = tempfile::tempdir().unwrap();
    let mut impostor = Impostor::unix(&folder);
    let address = impostor.address.clone();
    let machine = running_machine();
    let (handle, notes) = migrate(Arc::new(Heavy(machine.clone())), &address, checked());
    let control = impostor.welcome(2);
    while machine.running.load(std::sync::atomic::Ordering::SeqCst) {
        std::thread::yield_now();
    }
    let stopped = Instant::now();
    reason(notes.outcome());
    assert!(stopped.elapsed() < Duration::from_secs(10), "stopped for {:?}", stopped.elapsed());
    assert!(machine.running.load(std::sync::atomic::Ordering::SeqCst));
    handle.join();
    drop(control);
    assert_unharmed(&machine);
}

#[test]
fn after_go_the_source_asks_until_it_is_told_who_has_the_machine() {
    watch::panics();
    for runs in [true, false] {
        let (machine, outcome, statuses) = deceive(Impostor::tcp(), checked(), move |mut impostor| {
            let mut control = impostor.until_complete(2);
            control.say(&Message::Ready(Ack { nanoseconds: 1 }));
            assert_eq!(control.hear_news(), Some(Message::Go));
            control.throw(b"and then it lost its mind");
            drop(control);
            let mut control = impostor.accept();
            assert!(matches!(control.hear(), Some(Message::Ask { .. })));
            control.say(&Message::UnknownSession);
            control.wait_for_end();
            let mut control = impostor.accept();
            assert!(matches!(control.hear(), Some(Message::Ask { .. })));
            let running = Message::Running(Ack { nanoseconds: 1 });
            let not_running = Message::NotRunning { reason: "no room".into() };
            control.say(if runs { &running } else { &not_running });
            assert_eq!(control.hear(), Some(Message::Bye));
        });
        assert!(statuses.contains(&Status::Unknown), "{statuses:?}");
        let here = machine.running.load(std::sync::atomic::Ordering::SeqCst);
        assert_eq!((outcome == Outcome::Completed, here), (runs, !runs), "{outcome:?}");
        if !runs {
            assert!(reason(outcome).contains("no room"));
            assert_unharmed(&machine);
        }
    }
    watch::assert_no_panic();
}
