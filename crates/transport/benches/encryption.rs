//! What a GiB costs over loopback, in clear and encrypted, in CPU time of both ends.
//!
//! `cargo bench -p whimbrel-transport` prints medians; pages are sent from and received into memory that was touched before.

use std::{error::Error, fs, ptr::NonNull, time::Duration};

use authority::{Authority, Request};
use whimbrel_transport::{Accept, Connection, Listener, Piece, Tls, Trust};

const BATCH: usize = 1 << 20;
const BATCHES: usize = 1024;
const TIMES: usize = 5;
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let authority = Authority::init(&folder.path().join("ca"), "Bench")?;
    let directory = folder.path().join("host");
    authority.issue(&directory, &Request::new(["127.0.0.1"]))?;
    let mut tls = Tls::new(&directory);
    tls.authz = Some("127.0.0.1".parse()?);
    for (name, trust) in [("clear", Trust::ThisHost), ("encrypted", Trust::Certified(tls))] {
        let mut seconds = (0..TIMES).map(|_| gib(&trust)).collect::<Result<Vec<_>, _>>()?;
        seconds.sort_by(f64::total_cmp);
        println!(
            "{name:<10} {:.3} s of CPU time for a GiB ({:.3} – {:.3})",
            seconds[TIMES / 2],
            seconds[0],
            seconds[TIMES - 1]
        );
    }
    Ok(())
}

/// Sends a GiB and returns the CPU time of this process meanwhile.
fn gib(trust: &Trust) -> Result<f64, Box<dyn Error>> {
    let listener = Listener::bind(&"tcp:127.0.0.1:0".parse()?, trust)?;
    let (here, there) = std::thread::scope(|scope| {
        let there = scope.spawn(|| {
            let connection = listener.accept()?;
            connection.authenticate(PATIENCE).map(|()| connection)
        });
        let here = Connection::dial(listener.address(), trust, PATIENCE);
        (here, there.join())
    });
    let (here, there) = (here?, there.map_err(|_| "the accepting thread panicked")??);
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
