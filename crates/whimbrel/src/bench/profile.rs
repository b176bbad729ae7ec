use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::rig::{Contender, Machine};

/// Records with perf where both processes of a move spend their time.
#[derive(Debug)]
pub(super) struct Recorder {
    file: PathBuf,
}

/// Samples each second and CPU: odd, so as not to fall in step with what is measured.
const FREQUENCY: &str = "1999";
/// What perf takes to attach to all threads.
const ATTACH: Duration = Duration::from_millis(700);
/// Lines of each table that are shown.
const LINES: usize = 40;

impl Recorder {
    /// Recordings go to `folder`.
    pub(super) fn new(folder: &Path, contender: Contender) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self { file: folder.join(format!("{contender}.perf")) })
    }

    /// Records these machines, and the threads that they start, from now on.
    pub(super) fn start(&self, machines: &[&Machine]) -> io::Result<Recording> {
        let processes: Vec<_> = machines.iter().map(|machine| machine.process_id().to_string()).collect();
        let perf = Command::new("perf")
            .args(["record", "--quiet", "--event", "cpu-clock", "--freq", FREQUENCY, "--output"])
            .arg(&self.file)
            .args(["--pid", &processes.join(",")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(self.file.with_extension("log"))?)
            .spawn()?;
        thread::sleep(ATTACH);
        Ok(Recording { perf })
    }

    /// Prints where the time went: by thread, and, vCPUs left out, by function.
    pub(super) fn print(&self) -> io::Result<()> {
        let threads = self.report(&["--sort", "comm"])?;
        output::say!("\nby thread\n{}", threads.join("\n"));
        let names = threads.iter().filter_map(|line| line.split_once('%')).map(|(_, name)| name.trim());
        let others: Vec<_> = names.filter(|name| !VCPUS.iter().any(|vcpu| name.starts_with(vcpu))).collect();
        let functions =
            self.report(&["--sort", "sym", "--percentage", "relative", "--comms", &others.join(",")])?;
        output::say!("\nby function, vCPUs left out\n{}", functions.join("\n"));
        output::say!("\nMore: perf report --input {}", self.file.display());
        Ok(())
    }

    fn report(&self, order: &[&str]) -> io::Result<Vec<String>> {
        let output = Command::new("perf")
            .args(["report", "--stdio", "--percent-limit", "0.4", "--input"])
            .arg(&self.file)
            .args(order)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
        Ok(lines.take(LINES).map(|line| line.trim_end().to_owned()).collect())
    }
}

/// How the threads of vCPUs are called, by Whimbrel and by QEMU.
const VCPUS: [&str; 2] = ["vcpu", "CPU "];

/// A recording under way. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Recording {
    perf: Child,
}

impl Recording {
    /// Ends it, and waits until the file is whole.
    pub(super) fn stop(mut self) -> io::Result<()> {
        // SIGINT is how perf is told to finish.
        kill_process(Pid::from_child(&self.perf), Signal::INT)?;
        self.perf.wait().map(|_| ())
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // Fails only if it has ended.
        let _ = self.perf.kill();
        let _ = self.perf.wait();
    }
}
