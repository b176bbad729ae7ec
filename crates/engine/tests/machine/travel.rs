//! Both sides of a migration, and what a test asks of them afterwards.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use migration::{Outcome, Params};
use transport::{Address, Dialler, Listener, Trust};
use whimbrel_engine::{SourceMachine, destination, source};
use wire::{Offer, SessionId};

use super::{Arrival, Machine, Notes, Vacancy, pages_of};

pub(crate) struct Destination {
    address: Address,
    pub(crate) handle: destination::Handle,
    pub(crate) arrival: Arc<Arrival>,
    pub(crate) notes: Arc<Notes>,
}

/// Listens for a machine of that size, which shares its disk.
pub(crate) fn destination(address: &Address, machine: &Machine) -> Destination {
    destination_as(&Offer::of("test"), address, machine)
}

/// The same, of a release that offers this.
pub(crate) fn destination_as(offer: &Offer, address: &Address, machine: &Machine) -> Destination {
    destination_trusting(&Trust::ThisHost, offer, address, machine)
}

/// The same, with connections of this kind.
pub(crate) fn destination_trusting(
    trust: &Trust,
    offer: &Offer,
    address: &Address,
    machine: &Machine,
) -> Destination {
    let (arrival, notes) = (Arc::new(Arrival::default()), Arc::new(Notes::default()));
    let vacancy = Vacancy::new(pages_of(&machine.ram), machine.disk.clone(), arrival.clone());
    let listener = Listener::bind(address, trust).unwrap();
    let address = listener.address().clone();
    let handle = destination::listen(Box::new(vacancy), listener, offer.clone(), notes.clone()).unwrap();
    Destination { address, handle, arrival, notes }
}

impl Destination {
    /// Where it listens, with the port that the kernel chose.
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }
}

pub(crate) fn loopback() -> Address {
    Address::Tcp { host: "127.0.0.1".into(), port: 0 }
}

/// A session that no other attempt of this process has.
pub(crate) fn new_session() -> SessionId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    SessionId(u128::from(NEXT.fetch_add(1, Ordering::SeqCst)).to_le_bytes())
}

pub(crate) fn migrate(
    machine: Arc<dyn SourceMachine>,
    to: &Address,
    params: Params,
) -> (source::Handle, Arc<Notes>) {
    migrate_as(&Offer::of("test"), machine, to, params)
}

/// The same, of a release that offers this.
pub(crate) fn migrate_as(
    offer: &Offer,
    machine: Arc<dyn SourceMachine>,
    to: &Address,
    params: Params,
) -> (source::Handle, Arc<Notes>) {
    migrate_session(new_session(), Trust::ThisHost, offer, machine, to, params)
}

/// The same, as this session, with connections of this kind.
pub(crate) fn migrate_session(
    session: SessionId,
    trust: Trust,
    offer: &Offer,
    machine: Arc<dyn SourceMachine>,
    to: &Address,
    params: Params,
) -> (source::Handle, Arc<Notes>) {
    let notes = Arc::new(Notes::default());
    let dialler = Dialler::new(to.clone(), trust);
    let target = source::Target::new(dialler, session, offer.clone());
    (source::start(machine, params, target, notes.clone()).unwrap(), notes)
}

pub(crate) fn assert_arrived_whole(
    machine: &Machine,
    destination: &Destination,
    notes: &Notes,
) -> Arc<Machine> {
    assert_eq!(notes.outcome(), Outcome::Completed);
    assert_eq!(destination.notes.outcome(), Outcome::Completed);
    assert_same(machine, &destination.arrival)
}

/// What has arrived is what the machine is.
pub(crate) fn assert_same(machine: &Machine, arrival: &Arrival) -> Arc<Machine> {
    let arrived = arrival.machine.lock().unwrap().clone().unwrap();
    assert!(machine.contents() == arrived.contents(), "memory differs");
    assert_eq!(machine.writes.load(Ordering::SeqCst), arrived.writes.load(Ordering::SeqCst));
    assert!(!machine.disk.two_ran.load(Ordering::SeqCst), "two machines ran at once");
    arrived
}
