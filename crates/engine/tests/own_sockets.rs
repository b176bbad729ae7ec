//! A migration over sockets that the program brings, and of memory that it mapped itself.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod machine;

use std::{
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    time::Duration,
};

use whimbrel_engine::{
    Accept, Connection, Dial, Digest, GuestMemory, Offer, Outcome, PAGE_SIZE, Params, Ram, Stopper,
    TransportError, destination, source, vm_memory::GuestAddress,
};

use machine::{
    Arrival, Machine, Notes, PAGES, Vacancy,
    travel::{assert_same, new_session},
};

/// One end of a socket pair for each connection; the other is handed to the destination.
#[derive(Debug)]
struct Pairs {
    to_destination: Sender<Option<UnixStream>>,
    dialled: AtomicU32,
    /// Connections after this many break.
    most: u32,
}

impl Pairs {
    fn pair(&self) -> Result<Connection, TransportError> {
        if self.dialled.fetch_add(1, Ordering::SeqCst) >= self.most {
            return Err(TransportError::Closed);
        }
        let (here, there) = UnixStream::pair().map_err(TransportError::Broken)?;
        self.to_destination.send(Some(there)).map_err(|_| TransportError::Closed)?;
        Connection::from_socket(here)
    }
}

impl Dial for Pairs {
    fn dial(&self, _timeout: Duration) -> Result<Connection, TransportError> {
        self.pair()
    }

    fn dial_again(&self, _control: &Connection, _timeout: Duration) -> Result<Connection, TransportError> {
        self.pair()
    }
}

/// What is handed in; `None` stops it.
struct HandedIn {
    sockets: Mutex<Receiver<Option<UnixStream>>>,
    stop: Sender<Option<UnixStream>>,
}

impl Accept for HandedIn {
    fn accept(&self) -> Result<Connection, TransportError> {
        match self.sockets.lock().unwrap().recv() {
            Ok(Some(socket)) => Connection::from_socket(socket),
            Ok(None) | Err(_) => Err(TransportError::Stopped),
        }
    }

    fn stopper(&self) -> Stopper {
        let stop = self.stop.clone();
        Stopper::new(move || {
            // Nobody accepts any more if it fails.
            let _ = stop.send(None);
        })
    }

    fn place(&self) -> String {
        "sockets of the caller's".into()
    }
}

/// Memory as a monitor maps it.
fn mapped() -> Ram {
    let bytes = PAGES as usize * PAGE_SIZE;
    Ram::of(GuestMemory::from_ranges(&[(GuestAddress(0), bytes)]).unwrap(), &["ram.low"]).unwrap()
}

#[test]
fn a_machine_moves_over_sockets_and_out_of_memory_that_the_program_brings() {
    let machine = Machine::new(mapped(), 0);
    machine.fill();
    machine.run(PAGES);
    let (to_destination, sockets) = channel();
    let handed_in = HandedIn { sockets: Mutex::new(sockets), stop: to_destination.clone() };
    let (arrival, arrived) = (Arc::new(Arrival::default()), Arc::new(Notes::default()));
    let vacancy = Vacancy::new(PAGES, machine.disk.clone(), arrival.clone());
    let handle =
        destination::listen(Box::new(vacancy), handed_in, Offer::of("test"), arrived.clone()).unwrap();

    let attempt = |most| {
        let dial = Pairs { to_destination: to_destination.clone(), dialled: AtomicU32::new(0), most };
        let target = source::Target::new(dial, new_session(), Offer::of("test"));
        let params = Params::default().channels(3).digest(Digest::Full);
        let notes = Arc::new(Notes::default());
        let _handle = source::start(machine.clone(), params, target, notes.clone()).unwrap();
        notes.outcome()
    };
    // Connections that can be had; the first is the control connection. What the destination says when the others break is
    // not the cause.
    for channels in 0..3 {
        let Outcome::Failed(reason) = attempt(1 + channels) else { panic!("a channel was not missed") };
        assert!(reason.starts_with(&format!("Page channel {channels} cannot be opened")), "{reason}");
        assert!(machine.running.load(Ordering::SeqCst), "the machine must run at the source");
        while handle.snapshot().last_failure.is_none() {
            std::thread::yield_now();
        }
    }
    assert_eq!(attempt(u32::MAX), Outcome::Completed);
    assert_eq!(arrived.outcome(), Outcome::Completed);
    assert_same(&machine, &arrival);
    handle.join();
}
