use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    sync::mpsc::channel,
    thread,
    time::{Duration, Instant},
};

use crate::rig::Namespace;

/// As much as goes into one system call.
const PIECE: usize = 256 << 10;
/// What an address of the link's own may take to be reached.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes each second that one TCP connection carries for that time, from one namespace to the other, whose address is
/// `host`. Who wants to reach a port there has to go to `way`.
pub(super) fn copy(
    [source, destination]: [Option<&Namespace>; 2],
    host: &'static str,
    way: impl Fn(u16) -> u16,
    time: Duration,
) -> io::Result<f64> {
    let (tell, told) = channel();
    let receiver = spawn(destination, move || {
        let listener = TcpListener::bind((host, 0))?;
        // Nobody waits for it any more if that fails.
        let _ = tell.send(listener.local_addr()?);
        let (mut connection, _) = listener.accept()?;
        connection.set_read_timeout(Some(PATIENCE))?;
        let (mut piece, mut bytes, begun) = (vec![0; PIECE], 0_u64, Instant::now());
        loop {
            match connection.read(&mut piece)? {
                0 => return Ok(bytes as f64 / begun.elapsed().as_secs_f64()),
                count => bytes += count as u64,
            }
        }
    })?;
    let mut address = told.recv_timeout(PATIENCE).map_err(io::Error::other)?;
    address.set_port(way(address.port()));
    let sender = spawn(source, move || {
        let mut connection = TcpStream::connect_timeout(&address, PATIENCE)?;
        connection.set_write_timeout(Some(PATIENCE))?;
        let (piece, begun) = (vec![1; PIECE], Instant::now());
        while begun.elapsed() < time {
            connection.write_all(&piece)?;
        }
        Ok(0.0)
    })?;
    let join = |thread: thread::JoinHandle<io::Result<f64>>| {
        thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread that copies has panicked")))
    };
    join(sender)?;
    join(receiver)
}

fn spawn(
    namespace: Option<&Namespace>,
    work: impl FnOnce() -> io::Result<f64> + Send + 'static,
) -> io::Result<thread::JoinHandle<io::Result<f64>>> {
    match namespace {
        Some(namespace) => namespace.spawn("probe", work),
        None => thread::Builder::new().name("probe".into()).spawn(work),
    }
}
