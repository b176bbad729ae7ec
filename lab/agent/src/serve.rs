//! Carrying out requests.

use std::{
    fs,
    io::{self, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::{
        fs::PermissionsExt as _,
        net::UnixStream,
        process::{CommandExt as _, ExitStatusExt as _},
    },
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process_group};
use whimbrel_lab_agent::{Ending, Frame, Introduction, Place, Request, read_line, write_line};

/// Connections that wait for a request. More than one, so that requests need not wait for the next to be dialled.
const WAITING: usize = 3;

/// A host that cannot reach its lab for so long has been left behind.
const LEFT_BEHIND: Duration = Duration::from_secs(20);

/// Keeps connections to the lab at `address` open, and serves what comes over them.
///
/// # Errors
/// The lab is gone: the host has no purpose any more.
pub(crate) fn dial(address: &str, token: &str) -> io::Result<()> {
    let (busy, freed) = mpsc::channel();
    for _ in 0..WAITING {
        // The receiver lives in this function.
        let _ = busy.send(());
    }
    while freed.recv().is_ok() {
        let stream = dial_once(address, token)?;
        let busy = busy.clone();
        thread::spawn(move || {
            let mut from = BufReader::new(stream);
            let request = read_line(&mut from);
            let _ = busy.send(());
            finish(request, from);
        });
    }
    Ok(())
}

fn dial_once(address: &str, token: &str) -> io::Result<TcpStream> {
    let deadline = Instant::now() + LEFT_BEHIND;
    loop {
        let introduced = TcpStream::connect(address).and_then(|mut stream| {
            stream.set_nodelay(true)?;
            write_line(&mut stream, &Introduction { token: token.into() })?;
            Ok(stream)
        });
        match introduced {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(200)),
        }
    }
}

/// Serves whoever connects.
///
/// # Errors
/// The address cannot be had.
pub(crate) fn listen(address: &str) -> io::Result<()> {
    for stream in TcpListener::bind(address)?.incoming() {
        let stream = stream?;
        thread::spawn(move || {
            // Without it small answers wait; nothing else is lost.
            let _ = stream.set_nodelay(true);
            let mut from = BufReader::new(stream);
            let request = read_line(&mut from);
            finish(request, from);
        });
    }
    Ok(())
}

/// Serves one connection to its end. If the peer is gone there is nobody to tell.
fn finish(request: io::Result<Option<Request>>, from: BufReader<TcpStream>) {
    let Ok(mut to) = from.get_ref().try_clone() else { return };
    let ending = match request {
        Ok(None) => return,
        Ok(Some(Request::Run { argv })) => run(&argv, &to),
        Ok(Some(Request::Put { path, mode, bytes })) => put(&path, mode, from.take(bytes), bytes),
        Ok(Some(Request::Get { path })) => get(&path, &mut to),
        Ok(Some(Request::Connect { to: place })) => return connect(&place, from, to),
        Err(error) => Err(error),
    };
    let _ = Frame::End(ending.unwrap_or_else(|error| Ending::Failed(error.to_string()))).write(&mut to);
}

fn run(argv: &[String], to: &TcpStream) -> io::Result<Ending> {
    let [program, arguments @ ..] = argv else {
        return Err(io::Error::other("There is no program to run"));
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|error| io::Error::other(format!("'{program}' cannot be started: {error}")))?;
    let answer = Arc::new(Mutex::new(to.try_clone()?));
    let outlets = [
        child.stdout.take().map(|pipe| pass_on(pipe, Frame::Out, answer.clone())),
        child.stderr.take().map(|pipe| pass_on(pipe, Frame::Err, answer.clone())),
    ];
    let ended = kill_with_connection(&child, to.try_clone()?);
    let status = child.wait()?;
    ended.store(true, Ordering::Relaxed);
    for outlet in outlets.into_iter().flatten() {
        // A thread that panicked has said so.
        let _ = outlet.join();
    }
    Ok(match (status.code(), status.signal()) {
        (Some(code), _) => Ending::Status(code),
        (None, signal) => Ending::Signal(signal.unwrap_or(0)),
    })
}

/// Sends what comes out of `pipe` until all writers have closed it.
fn pass_on(
    mut pipe: impl Read + Send + 'static,
    frame: fn(Vec<u8>) -> Frame,
    to: Arc<Mutex<TcpStream>>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = pipe.read(&mut buffer) {
            let mut to = to.lock();
            // If the peer is gone, the program is about to be killed.
            let _ = frame(buffer[..count].to_vec()).write(&mut *to);
        }
    })
}

/// The lab says nothing while a program runs: what is read is the end of the connection. Returns where to say that the program
/// has ended by itself.
fn kill_with_connection(child: &Child, mut from: TcpStream) -> Arc<AtomicBool> {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let ended = Arc::new(AtomicBool::new(false));
    let has_ended = ended.clone();
    thread::spawn(move || {
        let _ = from.read(&mut [0]);
        if let Some(group) = group.filter(|_| !has_ended.load(Ordering::Relaxed)) {
            // Fails if all have ended.
            let _ = kill_process_group(group, Signal::KILL);
        }
    });
    ended
}

fn put(path: &str, mode: u32, mut from: impl Read, bytes: u64) -> io::Result<Ending> {
    let unfinished = format!("{path}.unfinished");
    let mut file = fs::File::create(&unfinished)?;
    let count = io::copy(&mut from, &mut file)?;
    if count != bytes {
        return Err(io::Error::other(format!("{count} of {bytes} bytes came")));
    }
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    fs::rename(&unfinished, path)?;
    Ok(Ending::Status(0))
}

fn get(path: &str, to: &mut TcpStream) -> io::Result<Ending> {
    let mut file = fs::File::open(path)?;
    let mut buffer = vec![0; 256 << 10];
    while let count @ 1.. = file.read(&mut buffer)? {
        Frame::Out(buffer[..count].to_vec()).write(to)?;
    }
    Ok(Ending::Status(0))
}

/// Connects, says so, and passes bytes on both ways until both sides have closed.
fn connect(place: &Place, from: BufReader<TcpStream>, mut to: TcpStream) {
    let there = match place {
        Place::Unix(path) => UnixStream::connect(path).map(Stream::Unix),
        Place::Tcp(address) => TcpStream::connect_timeout(address, Duration::from_secs(5)).map(Stream::Tcp),
    };
    let there = match there {
        Ok(there) => there,
        Err(error) => {
            let _ = Frame::End(Ending::Failed(error.to_string())).write(&mut to);
            return;
        }
    };
    if Frame::End(Ending::Status(0)).write(&mut to).is_err() {
        return;
    }
    match there {
        Stream::Unix(there) => {
            let Ok(back) = there.try_clone() else { return };
            splice(from, to, back, there, |stream| {
                let _ = stream.shutdown(Shutdown::Write);
            });
        }
        Stream::Tcp(there) => {
            let Ok(back) = there.try_clone() else { return };
            let _ = there.set_nodelay(true);
            splice(from, to, back, there, |stream| {
                let _ = stream.shutdown(Shutdown::Write);
            });
        }
    }
}

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

fn splice<S: Read + Write + Send + 'static>(
    mut from: BufReader<TcpStream>,
    mut to: TcpStream,
    mut back: S,
    mut there: S,
    end: fn(&mut S),
) {
    let onward = thread::spawn(move || {
        // Either side may end it at any time: that is the end, not an error.
        let _ = io::copy(&mut from, &mut there);
        end(&mut there);
    });
    let _ = io::copy(&mut back, &mut to);
    let _ = to.shutdown(Shutdown::Write);
    let _ = onward.join();
}
