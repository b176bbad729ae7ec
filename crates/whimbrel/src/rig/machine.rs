use std::{
    fs::{self, File},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use monitor::{
    Client, ClientError, EventQueue,
    types::{MigrationInfo, RunState},
};
use serde_json::{Value, json};

use super::{Interrupt, Interrupted, procfs};

/// A virtual machine monitor in a process of its own, and a connection to it. Dropping it ends the process.
#[derive(Debug)]
pub(crate) struct Machine {
    name: String,
    // Closed before the process is ended: a monitor that ends is no error then.
    monitor: Client,
    process: Process,
    files: Files,
}

/// Where a machine leaves what it says.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    /// What the process says.
    pub(crate) log: PathBuf,
    /// What the guest says.
    pub(crate) serial: PathBuf,
    /// Where the monitor listens.
    pub(crate) socket: PathBuf,
}

/// What went wrong with a machine's process or its monitor.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MachineError {
    /// The process could not be started.
    #[error("Cannot run {} for machine {name}", program.display())]
    Spawn { name: String, program: PathBuf, source: io::Error },
    /// The process ended by itself.
    #[error("Machine {name} died ({status}). The last lines of its log:\n{tail}")]
    Died { name: String, status: ExitStatus, tail: String },
    /// The process runs, and does not answer.
    #[error("Machine {name} runs, but its monitor does not answer. The last lines of its log:\n{tail}")]
    Silent { name: String, tail: String, source: ClientError },
    /// A command failed.
    #[error("Machine {name} cannot be commanded")]
    Monitor { name: String, source: ClientError },
    /// The user wants to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// A process that has just been started has its monitor in milliseconds, unless it reserves much memory first.
const START: Duration = Duration::from_secs(30);
/// What a command may take on a machine that is busy.
const ANSWER: Duration = Duration::from_secs(10);
/// What a process may take to end when its monitor has hung up.
const END: Duration = Duration::from_secs(5);
/// What it may take when it was asked to: it gives much memory back.
const QUIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);
/// Lines of a log that are shown: an error with its causes, and what led to it.
const TAIL_LINES: usize = 12;

impl Machine {
    /// Runs the command, which makes a monitor listen at the socket of `files`, and connects to it.
    pub(crate) fn start(
        name: &str,
        mut command: Command,
        files: Files,
        interrupt: &Interrupt,
    ) -> Result<Self, MachineError> {
        let program = PathBuf::from(command.get_program());
        let spawn_failed =
            |source| MachineError::Spawn { name: name.to_owned(), program: program.clone(), source };
        let log = File::create(&files.log).map_err(spawn_failed)?;
        let again = log.try_clone().map_err(spawn_failed)?;
        command.stdin(Stdio::null()).stdout(log).stderr(again).env("NO_COLOR", "1");
        // A group of its own: Ctrl-C at the terminal is for us, who then end it in order.
        let child = command.process_group(0).spawn().map_err(spawn_failed)?;
        let mut process = Process { child };
        let deadline = Instant::now() + START;
        loop {
            interrupt.check()?;
            if let Some(status) = process.status() {
                return Err(died(name, status, &files.log));
            }
            match Client::connect(&files.socket, ANSWER) {
                Ok(monitor) => return Ok(Self { name: name.to_owned(), monitor, process, files }),
                Err(source) if Instant::now() > deadline => {
                    let tail = tail(&files.log);
                    return Err(MachineError::Silent { name: name.to_owned(), tail, source });
                }
                Err(_) => interrupt.sleep(POLL)?,
            }
        }
    }

    /// What the user knows it by.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The id of its process.
    pub(crate) fn process_id(&self) -> u32 {
        self.process.child.id()
    }

    /// The file that has what the guest says.
    pub(crate) fn serial(&self) -> &Path {
        &self.files.serial
    }

    /// Bytes of memory that the process has touched.
    pub(crate) fn resident_bytes(&self) -> u64 {
        procfs::resident_bytes(self.process_id()).unwrap_or(0)
    }

    /// The most memory that the process ever had at a time, in bytes, huge pages left out.
    pub(crate) fn peak_bytes(&self) -> u64 {
        procfs::peak_bytes(self.process_id()).unwrap_or(0)
    }

    /// What happened by itself.
    pub(crate) fn events(&self) -> EventQueue {
        self.monitor.events()
    }

    /// An error if the process has ended.
    pub(crate) fn check(&mut self) -> Result<(), MachineError> {
        match self.process.status() {
            Some(status) => Err(died(&self.name, status, &self.files.log)),
            None => Ok(()),
        }
    }

    /// Whether the process has ended, for whatever reason.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.process.status().is_some()
    }

    /// Where it leaves what it says.
    pub(crate) fn files(&self) -> &Files {
        &self.files
    }

    /// Does a command.
    pub(crate) fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, MachineError> {
        let outcome = self.monitor.execute(command, arguments);
        outcome.map_err(|error| self.explain(error))
    }

    /// `query-migrate`.
    pub(crate) fn query_migrate(&mut self) -> Result<MigrationInfo, MachineError> {
        let outcome = self.monitor.query_migrate();
        outcome.map_err(|error| self.explain(error))
    }

    /// What state the machine is in.
    pub(crate) fn run_state(&mut self) -> Result<RunState, MachineError> {
        let outcome = self.monitor.query_status();
        outcome.map(|info| info.status).map_err(|error| self.explain(error))
    }

    /// Does a line of the human monitor.
    pub(crate) fn human(&mut self, line: &str) -> Result<String, MachineError> {
        let outcome = self.monitor.human(line);
        outcome.map_err(|error| self.explain(error))
    }

    /// Asks it to end, and waits until it has. Anything but success is an error.
    pub(crate) fn quit(mut self) -> Result<(), MachineError> {
        match self.monitor.execute("quit", json!({})) {
            // It may be gone before the answer is.
            Ok(_) | Err(ClientError::Closed) => {}
            Err(error) => return Err(self.explain(error)),
        }
        match self.process.status_within(QUIT) {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(died(&self.name, status, &self.files.log)),
            None => {
                let source = ClientError::Timeout { request: "quit".to_owned(), timeout: QUIT };
                let tail = tail(&self.files.log);
                Err(MachineError::Silent { name: self.name, tail, source })
            }
        }
    }

    /// A connection that broke has its cause in the process; a refusal is one of the command.
    fn explain(&mut self, source: ClientError) -> MachineError {
        let broken = matches!(source, ClientError::Closed | ClientError::Io(_));
        match self.process.status_within(if broken { END } else { Duration::ZERO }) {
            Some(status) => died(&self.name, status, &self.files.log),
            None => MachineError::Monitor { name: self.name.clone(), source },
        }
    }
}

/// A process that does not outlive its owner.
#[derive(Debug)]
struct Process {
    child: Child,
}

impl Process {
    /// How it ended; `None` while it runs.
    fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    fn status_within(&mut self, time: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + time;
        loop {
            let status = self.status();
            if status.is_some() || Instant::now() >= deadline {
                return status;
            }
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn died(name: &str, status: ExitStatus, log: &Path) -> MachineError {
    MachineError::Died { name: name.to_owned(), status, tail: tail(log) }
}

/// The last lines of a file, indented.
fn tail(log: &Path) -> String {
    let text = match fs::read(log) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => return format!("  (it cannot be read: {error})"),
    };
    let lines: Vec<_> = text.lines().collect();
    let shown = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    match shown {
        [] => "  (it is empty)".to_owned(),
        shown => shown.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &Path) -> Files {
        Files { log: folder.join("log"), serial: folder.join("serial"), socket: folder.join("socket") }
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_machine_that_dies_is_reported_with_the_tail_of_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let script = "for i in $(seq 100); do echo line $i; done; echo No memory >&2; exit 3";
        let interrupt = Interrupt::install().unwrap();
        let error = Machine::start("A", shell(script), files(folder.path()), &interrupt).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, MachineError::Died { .. }), "{text}");
        assert!(
            text.contains("exit status: 3") && text.ends_with("line 99\n  line 100\n  No memory"),
            "{text}"
        );
        assert!(!text.contains("line 80"), "{text}");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let interrupt = Interrupt::install().unwrap();
        let command = Command::new("/nonexistent/vmm");
        let error = Machine::start("A", command, files(folder.path()), &interrupt).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/vmm"), "{error}");
    }
}
