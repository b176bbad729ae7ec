use std::{
    fs::File,
    io::{PipeReader, PipeWriter, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use monitor::{Client, EventQueue, types::RunState};
use parking_lot::{Mutex, MutexGuard};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::{
    PATIENCE, Spec, holds,
    lab::{Serial, Stderr},
    until,
};

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_whimbrel-vmm");

/// How long a command of the monitor may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(20);

/// How much of a log is shown when a test fails.
const SHOWN_LINES: usize = 40;

/// One process of `whimbrel-vmm`, with a monitor that was reached. Killed when it is dropped.
pub(crate) struct Vmm {
    name: String,
    child: Mutex<Child>,
    client: Mutex<Client>,
    directory: Arc<TempDir>,
    /// Both ends of the pipe that leads to the serial port; the reading end is for looking how much is in it.
    keyboard: Option<(PipeReader, PipeWriter)>,
    /// The end of the log's pipe from which nobody reads.
    _unread: Option<PipeReader>,
}

impl Vmm {
    /// Starts a process and waits until its monitor answers.
    pub(super) fn start(directory: &Arc<TempDir>, name: &str, flags: &[String], spec: &Spec) -> Self {
        let file = |ending: &str| directory.path().join(format!("{name}.{ending}"));
        let mut command = command(&spec.prefix);
        command.args(flags).args(["--monitor", &format!("unix:{}", file("qmp").display())]);
        let (stderr, unread) = stderr(spec.stderr, &file("log"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        let keyboard = (spec.serial == Serial::Typed).then(|| std::io::pipe().unwrap());
        if let Some((reader, _)) = &keyboard {
            command.stdin(reader.try_clone().unwrap()).stdout(File::create(file("serial")).unwrap());
        }
        let serial = match &spec.serial {
            Serial::File => format!("file:{}", file("serial").display()),
            Serial::FileAt(path) => format!("file:{}", path.display()),
            Serial::Typed => "stdio".into(),
            Serial::Socket(path) => format!("unix:{}", path.display()),
        };
        command.args(["--serial", &serial]);
        let mut child = command.spawn().unwrap();
        let client = until("the monitor answers", || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("{name} ended with {status}:\n{}", tail(&file("log")));
            }
            Client::connect(&file("qmp"), COMMAND_TIMEOUT).ok()
        });
        Self {
            name: name.into(),
            child: Mutex::new(child),
            client: Mutex::new(client),
            directory: directory.clone(),
            keyboard,
            _unread: unread,
        }
    }

    /// Its name, in messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.lock().id()
    }

    /// Types on the serial port, and waits until the machine has taken everything into its device.
    pub(crate) fn types(&self, text: &str) {
        let (reader, writer) = self.keyboard.as_ref().expect("a machine that is typed to");
        (&*writer).write_all(text.as_bytes()).unwrap();
        holds("what was typed is taken", || rustix::io::ioctl_fionread(reader).unwrap() == 0);
    }

    /// The file that the serial port writes to.
    pub(crate) fn serial(&self) -> PathBuf {
        self.file("serial")
    }

    /// The monitor's socket.
    pub(crate) fn monitor_path(&self) -> PathBuf {
        self.file("qmp")
    }

    /// What the process has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.file("log")).unwrap()
    }

    /// The connection to the monitor.
    pub(crate) fn client(&self) -> MutexGuard<'_, Client> {
        self.client.lock()
    }

    /// Another connection to the monitor.
    pub(crate) fn another_client(&self) -> Client {
        Client::connect(&self.monitor_path(), COMMAND_TIMEOUT).unwrap()
    }

    /// The events of the connection.
    pub(crate) fn events(&self) -> EventQueue {
        self.client().events()
    }

    /// Does a command, which must work.
    pub(crate) fn command(&self, command: &str, arguments: Value) -> Value {
        let outcome = self.client().execute(command, arguments);
        outcome.unwrap_or_else(|error| panic!("{}: {}", self.name, chain(&error)))
    }

    /// Does a command, which must be refused, and returns why.
    pub(crate) fn refused(&self, command: &str, arguments: Value) -> String {
        match self.client().execute(command, arguments) {
            Ok(result) => panic!("{}: '{command}' was not refused: {result}", self.name),
            Err(error) => chain(&error),
        }
    }

    /// Why it runs or does not.
    pub(crate) fn run_state(&self) -> RunState {
        self.client().query_status().unwrap().status
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child.lock());
        kill_process(pid, signal).unwrap();
    }

    /// Kills it, and waits until it is gone.
    pub(crate) fn kill(&self) {
        let mut child = self.child.lock();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Whether the process is there.
    pub(crate) fn is_alive(&self) -> bool {
        self.child.lock().try_wait().unwrap().is_none()
    }

    /// Waits until the process has ended by itself.
    pub(crate) fn end(&self) -> ExitStatus {
        until(&format!("{} ends", self.name), || self.child.lock().try_wait().unwrap())
    }

    fn file(&self, ending: &str) -> PathBuf {
        self.directory.path().join(format!("{}.{ending}", self.name))
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        let child = self.child.get_mut();
        let status = child.try_wait();
        if std::thread::panicking() && matches!(status, Ok(None)) {
            let text = self.client.get_mut().human("info migrate");
            eprintln!("---- {} says:\n{}", self.name, text.unwrap_or_else(|error| error.to_string()));
        }
        // Fails when it has ended already.
        let _ = child.kill();
        let _ = child.wait();
        if std::thread::panicking() {
            eprintln!("---- {} ({status:?}), end of its log:\n{}", self.name, tail(&self.file("log")));
            eprintln!("---- {}, end of its serial output:\n{}", self.name, tail(&self.file("serial")));
        }
    }
}

/// Where a log goes, and the end of its pipe that is to stay open.
fn stderr(kind: Stderr, log: &Path) -> (Stdio, Option<PipeReader>) {
    // A test that fails shows it.
    let file = File::create(log).unwrap();
    if kind == Stderr::File {
        return (file.into(), None);
    }
    if kind == Stderr::Full {
        return (File::options().write(true).open("/dev/full").unwrap().into(), None);
    }
    let (reader, mut writer) = std::io::pipe().unwrap();
    if kind == Stderr::Stuck {
        let room = rustix::pipe::fcntl_getpipe_size(&writer).unwrap();
        writer.write_all(&vec![b'\n'; room]).unwrap();
    }
    (writer.into(), (kind == Stderr::Stuck).then_some(reader))
}

/// Runs the program with these flags until it ends by itself. It must not take long.
pub(crate) fn run_to_end(flags: &[&str]) -> Output {
    run_to_end_with(&[], flags)
}

/// The same with these words in front of the program.
pub(crate) fn run_to_end_with(prefix: &[String], flags: &[&str]) -> Output {
    let mut child = command(prefix)
        .args(flags)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            let output = child.wait_with_output().unwrap();
            panic!("{flags:?} did not end: {}", String::from_utf8_lossy(&output.stderr));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

/// The program, which is killed when the test's thread ends, however that ends: no machine outlives its test.
fn command(prefix: &[String]) -> Command {
    let words = prefix.iter().map(String::as_str).chain(["setpriv", "--pdeathsig", "KILL", "--", PROGRAM]);
    let mut words = words.collect::<Vec<_>>().into_iter();
    let mut command = Command::new(words.next().expect("there is at least the program"));
    command.args(words);
    command
}

fn tail(path: &Path) -> String {
    let text = String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
}

/// The sentence of an error, with its sources.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
