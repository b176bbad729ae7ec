//! The way to a server, which can be a bad one.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// How long a connection lasts over a bad line.
const LASTS: Duration = Duration::from_secs(1);
/// How late everything is there.
const LATE: Duration = Duration::from_millis(50);

/// A line to a server, at a port of its own. It ends with the process.
pub(crate) struct Line {
    pub(crate) port: u16,
    is_bad: Arc<AtomicBool>,
}

impl Line {
    pub(crate) fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let line =
            Self { port: listener.local_addr().unwrap().port(), is_bad: Arc::new(AtomicBool::new(false)) };
        let is_bad = line.is_bad.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // Who finds nobody there is told so by the end of the connection.
                let Ok(there) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                for (from, to) in [(&client, &there), (&there, &client)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let is_bad = is_bad.clone();
                    thread::spawn(move || carry(&from, &to, &is_bad));
                }
            }
        });
        line
    }

    pub(crate) fn harm(&self, is_bad: bool) {
        self.is_bad.store(is_bad, Ordering::Relaxed);
    }
}

fn carry(mut from: &TcpStream, mut to: &TcpStream, is_bad: &AtomicBool) {
    let began = Instant::now();
    let mut bytes = [0; 16 << 10];
    from.set_read_timeout(Some(LATE)).unwrap();
    loop {
        let is_bad = is_bad.load(Ordering::Relaxed);
        if is_bad && began.elapsed() > LASTS {
            break;
        }
        match from.read(&mut bytes) {
            Ok(0) => break,
            Ok(length) => {
                if is_bad {
                    thread::sleep(LATE);
                }
                if to.write_all(&bytes[..length]).is_err() {
                    break;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
    // The other direction may have done so.
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
