//! A way to the server on which every write conflicts: it is refused first, then done with a refusal for a reply, as when somebody else has
//! written right before and right after, and only then let through.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// The way, at a port of its own, without encryption: behind it is `kubectl proxy`, which speaks for an account. It ends with the process.
pub(crate) struct Conflicts {
    pub(crate) port: u16,
    refused: Arc<AtomicUsize>,
}

/// What came of the writes of one kind to one path so far.
type Tries = Arc<Mutex<HashMap<String, usize>>>;

const REFUSAL: &str = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"the object has been modified","reason":"Conflict","code":409}"#;

impl Conflicts {
    pub(crate) fn before(proxy: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let way = Self { port: listener.local_addr().unwrap().port(), refused: Arc::default() };
        let (refused, tries) = (way.refused.clone(), Tries::default());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (refused, tries) = (refused.clone(), tries.clone());
                // Whatever fails ends the connection, and is tried again by whoever has lost it.
                thread::spawn(move || serve(&client, proxy, &tries, &refused));
            }
        });
        way
    }

    /// How many writes were refused so far.
    pub(crate) fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }
}

/// Carries one request after the other.
fn serve(client: &TcpStream, proxy: u16, tries: &Tries, refused: &AtomicUsize) -> Option<()> {
    let mut requests = BufReader::new(client.try_clone().ok()?);
    loop {
        let (head, body) = request(&mut requests)?;
        let line = head.lines().next()?.to_owned();
        let is_write = !line.starts_with("GET ");
        let count = if is_write { next(tries, &line) } else { 2 };
        if count == 0 {
            refused.fetch_add(1, Ordering::Relaxed);
            refuse(client)?;
            continue;
        }
        // One connection for each, so that a reply ends with it.
        let mut there = TcpStream::connect(("127.0.0.1", proxy)).ok()?;
        let head = head.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
        there.write_all(head.as_bytes()).ok()?;
        there.write_all(&body).ok()?;
        if count == 1 {
            there.read_to_end(&mut Vec::new()).ok()?;
            refused.fetch_add(1, Ordering::Relaxed);
            refuse(client)?;
            continue;
        }
        // With its own word that the connection ends: clients make another.
        std::io::copy(&mut there, &mut &*client).ok()?;
        // Both directions, since a client may be waiting to be read.
        let _ = client.shutdown(std::net::Shutdown::Both);
        return None;
    }
}

/// Of three writes in a row each which one this is.
fn next(tries: &Tries, line: &str) -> usize {
    let mut tries = tries.lock().unwrap();
    let count = tries.entry(line.to_owned()).or_default();
    let this = *count % 3;
    *count += 1;
    this
}

fn refuse(mut client: &TcpStream) -> Option<()> {
    let head = format!(
        "HTTP/1.1 409 Conflict\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        REFUSAL.len()
    );
    client.write_all([head.as_bytes(), REFUSAL.as_bytes()].concat().as_slice()).ok()
}

/// The head of a request, to its empty line, and the body.
fn request(from: &mut BufReader<TcpStream>) -> Option<(String, Vec<u8>)> {
    let mut head = String::new();
    loop {
        let before = head.len();
        if from.read_line(&mut head).ok()? == 0 {
            return None;
        }
        if head[before..].trim().is_empty() {
            break;
        }
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    let mut body = vec![0; length.unwrap_or(0)];
    from.read_exact(&mut body).ok()?;
    Some((head, body))
}
