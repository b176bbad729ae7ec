//! What is sent without a copy arrives, and the kernel says when it is done.

#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

extern crate whimbrel_transport as transport;

use std::{
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
    ptr::NonNull,
    sync::{Arc, mpsc},
    time::Duration,
};

use authority::{Authority, Request};
use transport::{Accept, Buffer, Bulk, Connection, Listener, Piece, Tls, TransportError, Trust, WhyCopied};

/// Most bytes that the kernel may read at a time. What a user's processes may pin counts for all of them together (8 MiB as Linux is
/// set up), and tests run side by side.
const MOST: usize = 512 << 10;
/// The same, where records of TLS are sent, by half a megabyte each.
const MOST_RECORDS: usize = 2 << 20;
/// Of what [`arrives`] sends, that which is large enough.
const BATCHES: u64 = 8;

/// Bytes that repeat nowhere.
fn pattern(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed;
    let words = (0..bytes.div_ceil(8)).flat_map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_le_bytes()
    });
    words.take(bytes).collect()
}

fn in_clear() -> (Arc<Connection>, Connection) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let here = Connection::from_socket(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
    let there = Connection::from_socket(listener.accept().unwrap().0);
    (Arc::new(here.unwrap()), there.unwrap())
}

fn encrypted() -> (Arc<Connection>, Connection) {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::init(&folder.path().join("ca"), "Example CA").unwrap();
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    authority.issue(&a, &Request::new(["host-a"])).unwrap();
    authority.issue(&b, &Request::new(["127.0.0.1"])).unwrap();
    let mut tls = Tls::new(b);
    tls.authz = Some("host-a".parse().unwrap());
    let listener = Listener::bind(&"tcp:127.0.0.1:0".parse().unwrap(), &Trust::Certified(tls)).unwrap();
    let patience = Duration::from_secs(60);
    std::thread::scope(|scope| {
        let accepted = scope.spawn(|| {
            let connection = listener.accept().unwrap();
            connection.authenticate(patience).unwrap();
            connection
        });
        let here = Connection::dial(listener.address(), &Trust::Certified(Tls::new(a)), patience).unwrap();
        (Arc::new(here), accepted.join().unwrap())
    })
}

/// Sends `memory` in pieces, with a head before it.
fn send(bulk: &mut Bulk, head: &[u8], memory: &mut [u8], piece: usize) -> Result<(), TransportError> {
    let pieces = memory.chunks_mut(piece);
    let mut pieces: Vec<_> =
        pieces.map(|piece| Piece::new(NonNull::new(piece.as_mut_ptr()).unwrap(), piece.len())).collect();
    // SAFETY: the pieces are of memory that its caller keeps until all is done.
    unsafe { bulk.send_pieces(head, &mut pieces) }
}

/// Sends much in many ways, and returns what sent it when all has arrived as it was.
fn arrives((here, there): (Arc<Connection>, Connection), mut bulk: Bulk) -> Bulk {
    let sizes = [1, 4096, 16_384, 16_385, 100_000, 3 << 20];
    let mut memories: Vec<_> = (0..).zip(sizes).map(|(seed, bytes)| pattern(seed, bytes)).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for (memory, piece) in
                memories.iter().flat_map(|memory| [4096, 70_000].map(|piece| (memory, piece)))
            {
                let mut came = vec![0; 3 + memory.len() + 1];
                there.receive(&mut came).unwrap();
                assert!(&came[..3] == b"it:" && came[3..][..memory.len()] == **memory, "{piece}");
                assert_eq!(came.last(), Some(&b'.'));
            }
        });
        for memory in &memories {
            for piece in [4096, 70_000] {
                // A copy of its own each time, which is kept until the end.
                let memory = memory.clone().leak();
                send(&mut bulk, b"it:", memory, piece).unwrap();
                here.send(b".").unwrap();
            }
        }
        bulk.flush().unwrap();
    });
    memories.clear();
    assert_eq!(bulk.begun(), bulk.done().unwrap());
    bulk
}

#[test]
fn what_is_sent_without_a_copy_arrives_however_little_may_be_pinned_and_the_kernel_says_that_it_copied() {
    for most in [0, 64 << 10, MOST] {
        let both = in_clear();
        let bulk = Bulk::without_copy(both.0.clone(), most).insisting();
        let bulk = arrives(both, bulk);
        assert_eq!(bulk.why_copied(), None);
        // Within a host the kernel always copies, and says so.
        assert!(bulk.begun() > BATCHES, "{bulk:?}");
        assert_eq!(bulk.copied(), BATCHES, "each counts once, in however many sends it went");
    }
}

#[test]
fn where_the_kernel_copies_all_the_same_it_is_left_to_copy() {
    let both = in_clear();
    let bulk = Bulk::without_copy(both.0.clone(), MOST);
    let bulk = arrives(both, bulk);
    assert_eq!(bulk.why_copied(), Some(WhyCopied::Copied));
    assert!(bulk.begun() < BATCHES, "{bulk:?}");
    assert_eq!(bulk.copied(), BATCHES, "those count that are left to the kernel to copy");
}

#[test]
fn what_is_encrypted_is_sent_without_another_copy() {
    for most in [0, MOST_RECORDS] {
        let both = encrypted();
        let bulk = Bulk::without_copy(both.0.clone(), most).insisting();
        let bulk = arrives(both, bulk);
        assert!(bulk.begun() >= BATCHES && bulk.why_copied().is_none(), "{bulk:?}");
        assert_eq!(bulk.copied(), BATCHES);
    }
    let both = encrypted();
    let bulk = Bulk::without_copy(both.0.clone(), MOST_RECORDS);
    let bulk = arrives(both, bulk);
    assert_eq!((bulk.why_copied(), bulk.copied()), (Some(WhyCopied::Copied), BATCHES));
}

#[test]
fn unix_sockets_copy_and_it_is_said() {
    let (here, there) = UnixStream::pair().unwrap();
    let (here, there) = (Connection::from_socket(here).unwrap(), Connection::from_socket(there).unwrap());
    let here = Arc::new(here);
    let bulk = Bulk::without_copy(here.clone(), MOST);
    assert_eq!(bulk.why_copied(), Some(WhyCopied::Unsupported));
    let bulk = arrives((here, there), bulk);
    assert_eq!((bulk.begun(), bulk.copied()), (0, BATCHES));
}

#[test]
fn a_buffer_is_not_written_again_before_the_other_side_has_it() {
    const BYTES: usize = 200_000;
    for (both, most) in [(in_clear(), MOST), (encrypted(), MOST_RECORDS)] {
        let (here, there) = both;
        let mut bulk = Bulk::without_copy(here, most).insisting();
        let (begins, may_begin) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // As late as can be: the other side waits for room.
                may_begin.recv().unwrap();
                for round in 0..50 {
                    let mut came = vec![0; BYTES];
                    there.receive(&mut came).unwrap();
                    assert!(came == pattern(round, BYTES), "{round}");
                }
            });
            let mut buffer = Buffer::new(BYTES).unwrap();
            for round in 0..50 {
                buffer[..].copy_from_slice(&pattern(round, BYTES));
                if round == 2 {
                    begins.send(()).unwrap();
                }
                bulk.send_buffer(&[], &mut buffer, BYTES).unwrap();
            }
            bulk.flush().unwrap();
        });
    }
}

#[test]
fn what_is_not_done_when_the_connection_ends_is_an_error() {
    let (here, there) = in_clear();
    let mut bulk = Bulk::without_copy(here.clone(), MOST).insisting();
    let mut memory = pattern(1, 4 << 20);
    std::thread::scope(|scope| {
        // Nobody reads it; then the other side is gone.
        let sending = scope.spawn(|| send(&mut bulk, b"", &mut memory, 1 << 20).and_then(|()| bulk.flush()));
        there.shutdown();
        drop(there);
        assert!(matches!(sending.join().unwrap(), Err(TransportError::Closed)));
    });
    here.shutdown();
    let ended = send(&mut bulk, b"", &mut memory, 1 << 20).and_then(|()| bulk.flush());
    assert!(matches!(ended, Err(TransportError::Stopped)), "{ended:?}");
}

#[test]
fn who_asks_for_nothing_misses_nothing() {
    let both = in_clear();
    let bulk = Bulk::copying(both.0.clone());
    let bulk = arrives(both, bulk);
    assert_eq!((bulk.why_copied(), bulk.begun(), bulk.copied()), (Some(WhyCopied::NotAsked), 0, 0));
}
