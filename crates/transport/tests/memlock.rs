//! What may be pinned has a limit, which is the whole process's: no other test may be in this program.

#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

extern crate whimbrel_transport as transport;

use std::{
    io::{Write as _, stderr},
    net::{TcpListener, TcpStream},
    sync::Arc,
};

use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{CapabilitySet, capabilities, gettid, set_capabilities},
};
use transport::{Buffer, Bulk, Connection, WhyCopied};

const BYTES: usize = 1 << 20;

#[test]
fn where_no_memory_may_be_pinned_it_is_copied_and_said() {
    if let Err(error) = pins_nothing() {
        // Past the capture of test output.
        let _ = writeln!(stderr(), "SKIPPED: NOTHING WAS SENT BY WHO MAY PIN NOTHING. No limit: {error}");
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let here = Connection::from_socket(TcpStream::connect(listener.local_addr().unwrap()).unwrap()).unwrap();
    let there = Connection::from_socket(listener.accept().unwrap().0).unwrap();
    let mut bulk = Bulk::without_copy(Arc::new(here), 8 << 20).insisting();
    let mut buffer = Buffer::new(BYTES).unwrap();
    let sent: Vec<u8> = (0..BYTES).map(|index| (index / 7) as u8).collect();
    buffer.copy_from_slice(&sent);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut came = vec![0; BYTES];
            there.receive(&mut came).unwrap();
            assert!(came == sent);
        });
        bulk.send_buffer(&[], &mut buffer, BYTES).unwrap();
    });
    assert_eq!((bulk.why_copied(), bulk.begun(), bulk.copied()), (Some(WhyCopied::NoRoom), 0, 1));
}

/// From here on this thread may pin a page and no more: the limit does not hold for who may lock as much as he likes.
fn pins_nothing() -> rustix::io::Result<()> {
    let thread = Some(gettid());
    let mut sets = capabilities(thread)?;
    sets.effective.remove(CapabilitySet::IPC_LOCK);
    set_capabilities(thread, sets)?;
    let limit = getrlimit(Resource::Memlock);
    setrlimit(Resource::Memlock, Rlimit { current: Some(4096), ..limit })
}
