//! Doing something in a host or a guest, through its agent.

use std::{
    collections::VecDeque,
    fmt::Write as _,
    fs::File,
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use agent::{Ending, Frame, Place, Request, write_line};
use parking_lot::{Condvar, Mutex};

use crate::{LabError, Pace, wait::Watch};

/// How long a host may take to have a connection ready.
const REACH: Duration = Duration::from_secs(10);
/// How long a command may take that is not given a time.
const COMMAND: Duration = Duration::from_secs(30);
/// Bytes of a command's output that are kept.
const KEPT_BYTES: usize = 4 << 20;

/// A host or a guest. A handle: clones reach the same.
#[derive(Clone, Debug)]
pub struct Remote {
    name: String,
    reach: Reach,
    pace: Arc<Pace>,
}

#[derive(Clone, Debug)]
enum Reach {
    /// The agent dials, and its connections wait here.
    Dialled(Arc<Waiting>),
    /// Through another agent.
    Through(Box<Remote>, SocketAddr),
}

/// Connections that an agent has dialled and that wait for something to do.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    streams: Mutex<VecDeque<TcpStream>>,
    changed: Condvar,
}

/// A program that runs in a host or a guest. It ends when this is dropped.
#[derive(Debug)]
pub struct Spawned {
    name: String,
    stream: TcpStream,
    heard: Arc<Heard>,
    pace: Arc<Pace>,
}

#[derive(Debug, Default)]
struct Heard {
    state: Mutex<Output>,
    changed: Condvar,
}

/// Where what a program says is kept.
struct Log {
    out: File,
    err: File,
}

/// What a program has written so far, and how it ended.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// Standard output, at most the last 4 MiB.
    pub out: String,
    /// Standard error, likewise.
    pub err: String,
    /// How it ended; none while it runs.
    pub ending: Option<Ending>,
}

impl Waiting {
    pub(crate) fn push(&self, stream: TcpStream) {
        self.streams.lock().push_back(stream);
        self.changed.notify_one();
    }

    /// Drops all: the host is gone.
    pub(crate) fn clear(&self) {
        self.streams.lock().clear();
    }

    pub(crate) fn pop(&self, limit: Duration) -> Option<TcpStream> {
        let deadline = Instant::now() + limit;
        let mut streams = self.streams.lock();
        while streams.is_empty() {
            let left = deadline.checked_duration_since(Instant::now())?;
            self.changed.wait_for(&mut streams, left);
        }
        streams.pop_front()
    }
}

impl Remote {
    pub(crate) fn dialled(name: &str, waiting: Arc<Waiting>, pace: Arc<Pace>) -> Self {
        Self { name: name.into(), reach: Reach::Dialled(waiting), pace }
    }

    /// The agent that listens at `address`, which this one can reach.
    #[must_use]
    pub fn through(&self, name: &str, address: SocketAddr) -> Self {
        let reach = Reach::Through(Box::new(self.clone()), address);
        Self { name: name.into(), reach, pace: self.pace.clone() }
    }

    /// What it is called in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a shell command to its end, which must be a good one, and returns what it wrote on standard output.
    ///
    /// # Errors
    /// The command failed or took longer than 30 seconds.
    pub fn run(&self, command: &str) -> Result<String, LabError> {
        let output = self.spawn(&["sh", "-c", command])?.wait(COMMAND)?;
        match output.ending {
            Some(Ending::Status(0)) => Ok(output.out),
            ending => Err(self.failed(command, ending.as_ref(), &format!("{}{}", output.out, output.err))),
        }
    }

    /// Starts a program.
    ///
    /// # Errors
    /// The agent cannot be reached.
    pub fn spawn(&self, argv: &[&str]) -> Result<Spawned, LabError> {
        self.start(argv, None)
    }

    /// Starts a program, and writes what it says into the files `log`.out and `log`.err as well.
    ///
    /// # Errors
    /// The agent cannot be reached, or the files not be written.
    pub fn spawn_logged(&self, argv: &[&str], log: &Path) -> Result<Spawned, LabError> {
        let files = ["out", "err"].map(|ending| {
            let path = log.with_extension(ending);
            File::create(&path).map_err(LabError::file("create", path))
        });
        let [out, err] = files;
        self.start(argv, Some(Log { out: out?, err: err? }))
    }

    fn start(&self, argv: &[&str], log: Option<Log>) -> Result<Spawned, LabError> {
        let request = Request::Run { argv: argv.iter().map(ToString::to_string).collect() };
        let stream = self.ask(&request)?;
        let heard = Arc::new(Heard::default());
        let (theirs, from) =
            (heard.clone(), stream.try_clone().map_err(LabError::system("copy a connection"))?);
        thread::spawn(move || theirs.listen(from, log));
        let name = format!("{}: {}", self.name, argv.join(" "));
        Ok(Spawned { name, stream, heard, pace: self.pace.clone() })
    }

    /// Writes a file, with these permissions.
    ///
    /// # Errors
    /// The file cannot be read here or written there.
    pub fn put(&self, from: &Path, to: &str, mode: u32) -> Result<(), LabError> {
        let unreadable = || LabError::file("read", from);
        let mut file = File::open(from).map_err(unreadable())?;
        let bytes = file.metadata().map_err(unreadable())?.len();
        let mut stream = self.ask(&Request::Put { path: to.into(), mode, bytes })?;
        io::copy(&mut file, &mut stream).map_err(|error| self.broken(&error))?;
        self.answer(&mut stream, &format!("put {to}")).map(|_| ())
    }

    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read there.
    pub fn get(&self, path: &str) -> Result<Vec<u8>, LabError> {
        let mut stream = self.ask(&Request::Get { path: path.into() })?;
        self.answer(&mut stream, &format!("get {path}"))
    }

    /// Makes a unix socket here that leads to one there.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn forward(&self, here: PathBuf, there: &str) -> Result<PathBuf, LabError> {
        let listener = UnixListener::bind(&here).map_err(LabError::file("create", &here))?;
        let (remote, place) = (self.clone(), Place::Unix(there.into()));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (remote, place) = (remote.clone(), place.clone());
                // Whoever connected sees the end of the connection if there is none on the other side.
                thread::spawn(move || remote.connect(place).map(|there| splice(client, there)));
            }
        });
        Ok(here)
    }

    /// Connects to something that the agent can reach.
    fn connect(&self, to: Place) -> Result<TcpStream, LabError> {
        let what = format!("{to:?}");
        let mut stream = self.ask(&Request::Connect { to })?;
        self.answer(&mut stream, &what)?;
        stream.set_read_timeout(None).map_err(LabError::system("set a time-out"))?;
        Ok(stream)
    }

    /// Sends a request over a connection of its own.
    fn ask(&self, request: &Request) -> Result<TcpStream, LabError> {
        let mut stream = match &self.reach {
            Reach::Through(remote, address) => remote.connect(Place::Tcp(*address))?,
            Reach::Dialled(waiting) => {
                let limit = self.pace.stretch(REACH);
                waiting.pop(limit).ok_or_else(|| LabError::Agent {
                    place: self.name.clone(),
                    what: format!(
                        "no connection of its agent within {} s: the host is gone, or hangs",
                        limit.as_secs()
                    ),
                })?
            }
        };
        let limit = self.pace.stretch(COMMAND);
        stream.set_read_timeout(Some(limit)).map_err(LabError::system("set a time-out"))?;
        write_line(&mut stream, request).map_err(|error| self.broken(&error))?;
        Ok(stream)
    }

    /// Reads an answer to its end, which must be a good one.
    fn answer(&self, stream: &mut TcpStream, what: &str) -> Result<Vec<u8>, LabError> {
        let mut contents = Vec::new();
        loop {
            match Frame::read(stream).map_err(|error| self.broken(&error))? {
                Frame::Out(bytes) => contents.extend(bytes),
                Frame::Err(_) => {}
                Frame::End(Ending::Status(0)) => return Ok(contents),
                Frame::End(ending) => return Err(self.failed(what, Some(&ending), "")),
            }
        }
    }

    fn broken(&self, error: &io::Error) -> LabError {
        LabError::Agent {
            place: self.name.clone(),
            what: format!("the connection of its agent broke: {error}"),
        }
    }

    fn failed(&self, command: &str, ending: Option<&Ending>, said: &str) -> LabError {
        LabError::Command {
            place: self.name.clone(),
            command: command.into(),
            ending: ending.map_or_else(|| "nothing".into(), describe),
            said: said.trim_end().into(),
        }
    }
}

impl Spawned {
    /// What it has written so far.
    #[must_use]
    pub fn output(&self) -> Output {
        self.heard.state.lock().clone()
    }

    /// Whether it still runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.heard.state.lock().ending.is_none()
    }

    /// Waits until it says something or ends, at most that long.
    pub fn wait_for_news(&self, limit: Duration) {
        let mut state = self.heard.state.lock();
        if state.ending.is_none() {
            // Whether there was any is for the caller to see.
            self.heard.changed.wait_for(&mut state, limit);
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It did not end in that time.
    pub fn wait(&self, limit: Duration) -> Result<Output, LabError> {
        self.until("it ends", limit, |output| output.ending.as_ref().map(|_| output.clone()))
    }

    /// The last value of `name=` that it has printed.
    #[must_use]
    pub fn last(&self, name: &str) -> Option<i64> {
        last_number(&self.heard.state.lock().out, name)
    }

    /// Waits until it has printed a `name=` that is as wanted, and returns that.
    ///
    /// # Errors
    /// It ended before, or printed nothing for that time, or not the number in six times that time.
    pub fn number(&self, name: &str, limit: Duration, wanted: impl Fn(i64) -> bool) -> Result<i64, LabError> {
        self.until(&format!("it prints a good '{name}='"), limit, |output| {
            last_number(&output.out, name).filter(|number| wanted(*number))
        })
    }

    fn until<T>(
        &self,
        what: &str,
        limit: Duration,
        look: impl Fn(&Output) -> Option<T>,
    ) -> Result<T, LabError> {
        let mut watch = Watch::new(&self.pace, limit);
        let mut state = self.heard.state.lock();
        loop {
            if let Some(seen) = look(&state) {
                return Ok(seen);
            }
            let is_over = watch.is_over((state.out.len() + state.err.len()) as u64);
            let ended = state.ending.as_ref().map(describe);
            if is_over || ended.is_some() {
                let ended = ended.map_or_else(String::new, |how| format!(", and it ended with {how}"));
                let said = format!("{}{}", crate::programs::last_lines(&state.out, 5), state.err);
                return Err(LabError::Wrong(format!(
                    "{}: not within {} s that {what}{ended}; it said: {said}",
                    self.name,
                    watch.limit().as_secs()
                )));
            }
            let left = watch.left();
            self.heard.changed.wait_for(&mut state, left);
        }
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        // The agent kills what runs for a connection that ends. Fails if it has ended already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl Heard {
    /// Takes in what a program says, to its end.
    fn listen(&self, mut from: TcpStream, mut log: Option<Log>) {
        // A program may be silent for as long as it likes.
        let _ = from.set_read_timeout(None);
        loop {
            let frame = Frame::read(&mut from);
            if let Some(log) = &mut log {
                // A log that cannot be written is no reason to fail.
                let _ = match &frame {
                    Ok(Frame::Out(bytes)) => log.out.write_all(bytes),
                    Ok(Frame::Err(bytes)) => log.err.write_all(bytes),
                    _ => Ok(()),
                };
            }
            let mut state = self.state.lock();
            match frame {
                Ok(Frame::Out(bytes)) => append(&mut state.out, &bytes),
                Ok(Frame::Err(bytes)) => append(&mut state.err, &bytes),
                Ok(Frame::End(ending)) => state.ending = Some(ending),
                Err(error) => state.ending = Some(Ending::Failed(format!("the connection ended: {error}"))),
            }
            self.changed.notify_all();
            if state.ending.is_some() {
                return;
            }
        }
    }
}

fn append(text: &mut String, bytes: &[u8]) {
    // Writing to a string cannot fail.
    let _ = write!(text, "{}", String::from_utf8_lossy(bytes));
    if text.len() > KEPT_BYTES {
        let from = (text.len() - KEPT_BYTES / 2..text.len()).find(|at| text.is_char_boundary(*at));
        text.drain(..from.unwrap_or(0));
    }
}

fn last_number(text: &str, name: &str) -> Option<i64> {
    let (complete, _) = text.rsplit_once('\n')?;
    complete.split_ascii_whitespace().rev().find_map(|word| {
        let (found, number) = word.split_once('=')?;
        (found == name).then(|| number.parse().ok())?
    })
}

fn describe(ending: &Ending) -> String {
    match ending {
        Ending::Status(status) => format!("status {status}"),
        Ending::Signal(signal) => format!("signal {signal}"),
        Ending::Failed(why) => format!("'{why}'"),
    }
}

/// Passes bytes on both ways.
fn splice(here: UnixStream, there: TcpStream) {
    let (Ok(mut from_here), Ok(mut to_there)) = (here.try_clone(), there.try_clone()) else { return };
    thread::spawn(move || {
        // Either side may end it: that is the end, not an error.
        let _ = io::copy(&mut from_here, &mut to_there);
        let _ = to_there.shutdown(Shutdown::Write);
    });
    let (mut from_there, mut to_here) = (there, here);
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from_there.read(&mut buffer) {
        if to_here.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to_here.shutdown(Shutdown::Both);
}
