//! What a GiB costs over loopback, in clear and encrypted, in CPU time of both ends, beside the cipher alone; and how long handshakes
//! take.
//!
//! `cargo bench -p whimbrel-transport` prints medians; pages are sent from and received into memory that was touched before. The
//! three take turns: a machine that has other work is not always as slow.

use std::{
    error::Error,
    fs,
    ptr::NonNull,
    time::{Duration, Instant},
};

use authority::{Authority, Request};
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use whimbrel_transport::{Accept, Connection, Listener, Piece, Tls, TransportError, Trust};

const BATCH: usize = 1 << 20;
const BATCHES: usize = 1024;
const TIMES: usize = 5;
const CHANNELS: usize = 16;
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let authority = Authority::init(&folder.path().join("ca"), "Bench")?;
    let directory = folder.path().join("host");
    authority.issue(&directory, &Request::new(["127.0.0.1"]))?;
    let mut tls = Tls::new(&directory);
    tls.authz = Some("127.0.0.1".parse()?);
    let (clear, encrypted) = (Trust::ThisHost, Trust::Certified(tls));
    let mut seconds = [const { Vec::new() }; 3];
    for _ in 0..TIMES {
        for (seconds, measured) in seconds.iter_mut().zip([gib(&clear)?, gib(&encrypted)?, cipher()?]) {
            seconds.push(measured);
        }
    }
    for (name, seconds) in ["clear", "encrypted", "cipher"].iter().zip(&mut seconds) {
        print(&format!("{name:<10} s of CPU time for a GiB"), seconds);
    }
    let [clear_s, encrypted_s, cipher_s] = seconds.map(|seconds| seconds[TIMES / 2]);
    println!("encrypted takes {:.2} of clear and cipher together", encrypted_s / (clear_s + cipher_s));
    for (name, trust) in [("clear", &clear), ("encrypted", &encrypted)] {
        let mut elapsed = (0..TIMES).map(|_| dial_channels(trust)).collect::<Result<Vec<_>, _>>()?;
        print(&format!("{name:<10} ms until {CHANNELS} channels are there"), &mut elapsed);
    }
    Ok(())
}

fn print(what: &str, measured: &mut [f64]) {
    measured.sort_by(f64::total_cmp);
    let (least, most) = (measured[0], measured[measured.len() - 1]);
    println!("{what}: {:.3} ({least:.3} – {most:.3})", measured[measured.len() / 2]);
}

/// Encrypts and decrypts a GiB where it lies, in records, and returns the CPU time.
fn cipher() -> Result<f64, Box<dyn Error>> {
    let key = UnboundKey::new(&AES_128_GCM, &[7; 16]).map_err(|_| "no key")?;
    let key = LessSafeKey::new(key);
    let mut memory = vec![1_u8; BATCH];
    let nonce = || Nonce::assume_unique_for_key([0; 12]);
    let before = spent()?;
    for _ in 0..BATCHES {
        for record in memory.chunks_mut(16 << 10) {
            let tag = key.seal_in_place_separate_tag(nonce(), Aad::empty(), record).map_err(|_| "sealing")?;
            key.open_in_place_separate_tag(nonce(), Aad::empty(), tag, record, 0..).map_err(|_| "opening")?;
        }
    }
    Ok(spent()? - before)
}

/// Dials the channels of a migration at once, and returns how many milliseconds it took until both sides had them all.
fn dial_channels(trust: &Trust) -> Result<f64, Box<dyn Error>> {
    let listener = Listener::bind(&"tcp:127.0.0.1:0".parse()?, trust)?;
    let (control, _there) = connect(&listener, trust)?;
    let begin = Instant::now();
    std::thread::scope(|scope| -> Result<(), Box<dyn Error>> {
        let there: Vec<_> = (0..CHANNELS).map(|_| scope.spawn(|| accept(&listener))).collect();
        let here: Vec<_> = (0..CHANNELS).map(|_| scope.spawn(|| control.dial_again(PATIENCE))).collect();
        for end in here.into_iter().chain(there) {
            end.join().map_err(|_| "a thread panicked")??;
        }
        Ok(())
    })?;
    Ok(begin.elapsed().as_secs_f64() * 1000.0)
}

fn connect(listener: &Listener, trust: &Trust) -> Result<(Connection, Connection), Box<dyn Error>> {
    let (here, there) = std::thread::scope(|scope| {
        let there = scope.spawn(|| accept(listener));
        let here = Connection::dial(listener.address(), trust, PATIENCE);
        (here, there.join())
    });
    Ok((here?, there.map_err(|_| "the accepting thread panicked")??))
}

fn accept(listener: &Listener) -> Result<Connection, TransportError> {
    let connection = listener.accept()?;
    connection.authenticate(PATIENCE).map(|()| connection)
}

/// Sends a GiB and returns the CPU time of this process meanwhile.
fn gib(trust: &Trust) -> Result<f64, Box<dyn Error>> {
    let listener = Listener::bind(&"tcp:127.0.0.1:0".parse()?, trust)?;
    let (here, there) = connect(&listener, trust)?;
    let (mut from, mut to) = (vec![1_u8; 64 * BATCH], vec![0_u8; 64 * BATCH]);
    let before = spent()?;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for batch in 0..BATCHES {
                let mut pieces = pieces(&mut from, batch);
                // SAFETY: the pieces are of a vector that outlives the call.
                let _ = unsafe { here.send_pieces(&[7; 64], &mut pieces) };
            }
        });
        for batch in 0..BATCHES {
            let mut head = [0; 64];
            let mut pieces = pieces(&mut to, batch);
            // SAFETY: the pieces are of a vector that outlives the call, and nothing looks into it meanwhile.
            let _ = there.receive(&mut head).and_then(|()| unsafe { there.receive_pieces(&mut pieces) });
        }
    });
    Ok(spent()? - before)
}

fn pieces(memory: &mut [u8], batch: usize) -> Vec<Piece> {
    let begin = batch % 64 * BATCH;
    let part = &mut memory[begin..begin + BATCH];
    part.chunks_mut(16 << 10)
        .filter_map(|piece| NonNull::new(piece.as_mut_ptr()).map(|at| Piece::new(at, piece.len())))
        .collect()
}

/// CPU seconds of this process, all threads, user and system.
fn spent() -> Result<f64, Box<dyn Error>> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks =
        |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).ok_or("no ticks");
    // In hundredths of a second (USER_HZ), which is enough for a GiB.
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}
