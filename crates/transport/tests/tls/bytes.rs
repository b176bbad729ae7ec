//! What is sent arrives, and nothing else does.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    ptr::NonNull,
    time::Duration,
};

use transport::{Accept, Connection, Piece, TransportError};

use crate::{World, chain, connected, dial, listen};

/// Bytes that repeat nowhere.
fn pattern(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = (0..bytes.div_ceil(8)).flat_map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_le_bytes()
    });
    words.take(bytes).collect()
}

fn pieces(memory: &mut [u8], piece: usize) -> Vec<Piece> {
    let pieces = memory.chunks_mut(piece);
    pieces.map(|piece| Piece::new(NonNull::new(piece.as_mut_ptr()).unwrap(), piece.len())).collect()
}

/// Sends all of `memory` in pieces, with a head before it.
fn send_all(connection: &Connection, head: &[u8], memory: &mut [u8], piece: usize) {
    let mut pieces = pieces(memory, piece);
    // SAFETY: the pieces are of a slice that outlives the call.
    unsafe { connection.send_pieces(head, &mut pieces) }.unwrap();
}

fn receive_all(connection: &Connection, bytes: usize, piece: usize) -> Vec<u8> {
    let mut memory = vec![0; bytes];
    let mut pieces = pieces(&mut memory, piece);
    // SAFETY: the pieces are of a vector that outlives the call, and nothing looks into it meanwhile.
    unsafe { connection.receive_pieces(&mut pieces) }.unwrap();
    memory
}

#[test]
fn what_is_sent_arrives_whatever_the_sizes() {
    let world = World::new();
    let (source, destination) = world.two_hosts();
    let listener = listen(&destination);
    let (here, there) = connected(&source, &listener);
    for bytes in [1, 2, 16_383, 16_384, 16_385, 100_000, 3 << 20] {
        for piece in [4096, 1000, 65_536] {
            let (head, mut memory) = (pattern(77), pattern(bytes));
            std::thread::scope(|scope| {
                scope.spawn(|| send_all(&here, &head, &mut memory, piece));
                let mut arrived = [0; 77];
                there.receive(&mut arrived).unwrap();
                assert_eq!(arrived[..], head);
                assert!(
                    receive_all(&there, bytes, 3 * piece) == pattern(bytes),
                    "{bytes} in pieces of {piece}"
                );
            });
        }
    }
    // And the other way, on the same connection.
    there.send(b"running").unwrap();
    let mut answer = [0; 7];
    here.receive(&mut answer).unwrap();
    assert_eq!(&answer, b"running");
}

#[test]
fn both_directions_are_used_at_once_and_renew_their_keys() {
    let world = World::new();
    let (mut source, mut destination) = world.two_hosts();
    (source.rekey_after, destination.rekey_after) = (700_000, 900_000);
    let listener = listen(&destination);
    let (here, there) = connected(&source, &listener);
    let bytes = 8 << 20;
    std::thread::scope(|scope| {
        for (from, to) in [(&here, &there), (&there, &here)] {
            scope.spawn(move || send_all(from, &[], &mut pattern(bytes), 4096));
            scope.spawn(move || assert!(receive_all(to, bytes, 8192) == pattern(bytes)));
        }
    });
}

#[test]
fn keys_are_renewed_on_the_way_in_both_directions() {
    let world = World::new();
    let (mut source, mut destination) = world.two_hosts();
    (source.rekey_after, destination.rekey_after) = (100_000, 300_000);
    let listener = listen(&destination);
    let (here, there) = connected(&source, &listener);
    let bytes = 5 << 20;
    for _ in 0..2 {
        std::thread::scope(|scope| {
            scope.spawn(|| send_all(&here, &[], &mut pattern(bytes), 4096));
            assert!(receive_all(&there, bytes, 4096) == pattern(bytes));
            scope.spawn(|| send_all(&there, &[], &mut pattern(bytes), 4096));
            assert!(receive_all(&here, bytes, 4096) == pattern(bytes));
        });
    }
    let (ours, theirs) = (here.security().unwrap().rekeys, there.security().unwrap().rekeys);
    assert!(ours > 80 && theirs > 25, "{ours} and {theirs}");
}

/// Passes bytes on in both directions. Those that go to the destination are read and written by `pass`.
fn pass_on(from: TcpStream, to: TcpStream, pass: impl FnOnce(&mut TcpStream, &mut TcpStream) + Send) {
    let (mut back_from, mut back_to) = (to.try_clone().unwrap(), from.try_clone().unwrap());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let _ = std::io::copy(&mut back_from, &mut back_to);
            let _ = back_to.shutdown(std::net::Shutdown::Write);
        });
        let (mut from, mut to) = (from, to);
        pass(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
}

const MEGABYTE: usize = 1 << 20;

/// Sends a megabyte through `pass`. Returns what became of it on both sides: whether it arrived as it was sent, or why not.
fn through(
    patience: Duration,
    pass: impl FnOnce(&mut TcpStream, &mut TcpStream) + Send,
) -> (String, Result<bool, String>) {
    let world = World::new();
    let (source, destination) = world.two_hosts();
    let listener = listen(&destination);
    let between = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{}", between.local_addr().unwrap()).parse().unwrap();
    let transport::Address::Tcp { port, .. } = listener.address() else { unreachable!() };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let from = between.accept().unwrap().0;
            pass_on(from, TcpStream::connect(("127.0.0.1", *port)).unwrap(), pass);
        });
        let received = scope.spawn(|| {
            let connection = listener.accept().map_err(|error| chain(&error))?;
            connection.authenticate(patience).map_err(|error| chain(&error))?;
            connection.set_receive_timeout(Some(patience)).unwrap();
            let mut memory = vec![0; MEGABYTE];
            connection.receive(&mut memory).map_err(|error| chain(&error))?;
            Ok(memory == pattern(MEGABYTE))
        });
        let sent = dial(&address, &source).and_then(|connection| {
            connection.send(&pattern(MEGABYTE))?;
            // The destination says nothing: it closes, or says why it had to.
            connection.receive(&mut [0])
        });
        (chain(&sent.unwrap_err()), received.join().unwrap())
    })
}

/// Soon enough for who waits for bytes that never come. Nothing that should succeed is timed with it.
const SOON: Duration = Duration::from_secs(2);

#[test]
fn a_flipped_bit_anywhere_ends_the_connection() {
    let harmed_at = |place: usize, patience| {
        through(patience, move |from, to| {
            let (mut buffer, mut at) = (vec![0; 65_536], 0);
            while let Ok(bytes @ 1..) = from.read(&mut buffer) {
                if let Some(byte) = place.checked_sub(at).filter(|at| *at < bytes) {
                    buffer[byte] ^= 0x10;
                }
                at += bytes;
                if to.write_all(&buffer[..bytes]).is_err() {
                    break;
                }
            }
        })
    };
    assert_eq!(harmed_at(usize::MAX, crate::PATIENCE).1, Ok(true), "what is not harmed arrives");
    for place in [0, 3, 5, 40, 200, 700, 1500, 3000, 100_000, 500_000, 1_000_000] {
        let (sent, received) = harmed_at(place, SOON);
        // Six bytes of the handshake mean nothing (the record that is there for middleboxes alone): harm to them does none.
        let is_of_handshake = place < 1500;
        assert!(
            received.is_err() || (is_of_handshake && received == Ok(true)),
            "{place}: {sent}, {received:?}"
        );
    }
}

#[test]
fn a_flipped_bit_in_front_of_an_encrypted_record_ends_the_connection() {
    // As it is, of another kind that exists, and of another version that does.
    for (byte, bit) in [(0, 0), (0, 1 << 0), (0, 1 << 1), (2, 1 << 0), (2, 1 << 1)] {
        let (sent, received) = through(SOON, move |from, to| {
            let mut number = 0;
            while let Some(mut record) = read_record(from) {
                number += 1;
                // Long after the handshake.
                if number == 30 {
                    record[byte] ^= bit;
                }
                if to.write_all(&record).is_err() {
                    break;
                }
            }
        });
        assert_eq!(received == Ok(true), bit == 0, "{byte} {bit}: {sent}, {received:?}");
    }
}

#[test]
fn a_handshake_that_stalls_anywhere_ends_for_both_sides() {
    // In the middle of records, at their ends, and behind the handshake, where what is sent is waited for.
    for bytes in [1_usize, 4, 5, 6, 100, 250, 300, 600, 900, 1200, 2000] {
        let (sent, received) = through(SOON, move |from, to| {
            let mut passed = from.take(bytes as u64);
            let _ = std::io::copy(&mut passed, to);
            // Open, and nothing comes any more, until one of them has had enough.
            let _ = std::io::copy(passed.get_mut(), &mut std::io::sink());
        });
        let error = received.unwrap_err();
        let expected = ["did not finish the TLS handshake", "stuck for too long", "closed"];
        assert!(expected.iter().any(|words| error.contains(words)), "{bytes}: {error}; {sent}");
    }
}

#[test]
fn records_that_are_repeated_left_out_or_exchanged_end_the_connection() {
    /// The record with this number, counted from the source's first, is past the handshake.
    const LATE: usize = 20;
    type Harm = fn(usize, &[u8], &mut Vec<Vec<u8>>);
    let harms: [Harm; 4] = [
        |_, record, out| out.push(record.to_vec()),
        |number, record, out| out.extend(vec![record.to_vec(); 1 + usize::from(number == LATE)]),
        |number, record, out| out.extend((number != LATE).then(|| record.to_vec())),
        |number, record, out| match number {
            LATE => out.push(Vec::new()),
            _ => out.push(record.to_vec()),
        },
    ];
    for (index, harm) in harms.into_iter().enumerate() {
        let (_, received) = through(crate::PATIENCE, move |from, to| {
            let (mut number, mut kept) = (0, None);
            while let Some(record) = read_record(from) {
                let mut out = Vec::new();
                harm(number, &record, &mut out);
                for written in out {
                    // An empty one stands for a record that comes after the next.
                    let written = if written.is_empty() {
                        kept = Some(record.clone());
                        continue;
                    } else {
                        written
                    };
                    if to.write_all(&written).is_err() {
                        return;
                    }
                    if let Some(kept) = kept.take()
                        && to.write_all(&kept).is_err()
                    {
                        return;
                    }
                }
                number += 1;
            }
        });
        match index {
            0 => assert_eq!(received, Ok(true)),
            _ => assert!(received.unwrap_err().contains("does not decrypt"), "harm {index}"),
        }
    }
}

/// A whole TLS record; `None` at the end.
fn read_record(from: &mut TcpStream) -> Option<Vec<u8>> {
    let mut record = vec![0; 5];
    from.read_exact(&mut record).ok()?;
    let length = usize::from(u16::from_be_bytes([record[3], record[4]]));
    record.resize(5 + length, 0);
    from.read_exact(&mut record[5..]).ok()?;
    Some(record)
}

#[test]
fn an_end_without_a_farewell_is_the_end_of_the_link() {
    let world = World::new();
    let (source, destination) = world.two_hosts();
    let listener = listen(&destination);
    let between = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{}", between.local_addr().unwrap()).parse().unwrap();
    let transport::Address::Tcp { port, .. } = listener.address() else { unreachable!() };
    let cut = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let from = between.accept().unwrap().0;
            let to = TcpStream::connect(("127.0.0.1", *port)).unwrap();
            let (from_too, to_too) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            scope.spawn(move || {
                pass_on(from_too, to_too, |from, to| {
                    let _ = std::io::copy(from, to);
                });
            });
            cut.wait();
            let _ = from.shutdown(std::net::Shutdown::Both);
            let _ = to.shutdown(std::net::Shutdown::Both);
        });
        let accepted = scope.spawn(|| {
            let connection = listener.accept().unwrap();
            connection.authenticate(crate::PATIENCE).unwrap();
            connection.send(b"here").unwrap();
            connection.receive(&mut [0; 8])
        });
        let connection = dial(&address, &source).unwrap();
        connection.receive(&mut [0; 4]).unwrap();
        connection.send(b"half").unwrap();
        cut.wait();
        assert!(matches!(accepted.join().unwrap(), Err(TransportError::Closed)));
        assert!(matches!(connection.receive(&mut [0]), Err(TransportError::Closed)));
    });
}

#[test]
fn a_farewell_is_the_end_of_the_link_too_and_shutting_down_ends_who_waits() {
    let world = World::new();
    let (source, destination) = world.two_hosts();
    let listener = listen(&destination);
    let (here, there) = connected(&source, &listener);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| here.receive(&mut [0]));
        let other = scope.spawn(|| there.receive(&mut [0]));
        here.shutdown();
        assert!(matches!(waiting.join().unwrap(), Err(TransportError::Stopped)));
        assert!(matches!(other.join().unwrap(), Err(TransportError::Closed)));
    });
}
