//! A fleet, and what it takes to drive it.

use std::{
    fs,
    io::{BufRead, BufReader},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::programs;

/// Whatever is waited for takes a second or two; on a host that is busy with other tests it takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// A fleet, and what it takes to drive it. Its machines end with it.
pub(crate) struct Fleet {
    folder: TempDir,
    program: Option<Child>,
}

impl Fleet {
    /// A fleet that is up; `None`, loudly, where there can be none.
    pub(crate) fn start() -> Option<Self> {
        let mut fleet = Self::prepare()?;
        fleet.up();
        Some(fleet)
    }

    /// One that is not up yet.
    pub(crate) fn prepare() -> Option<Self> {
        programs::vmm()?;
        if Command::new("kubectl").arg("version").arg("--client").output().is_err() {
            eprintln!("SKIPPED: NO FLEET WAS STARTED. There is no kubectl");
            return None;
        }
        Some(Self { folder: tempfile::tempdir().unwrap(), program: None })
    }

    pub(crate) fn dir(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn up(&mut self) {
        let mut program = command(self.dir()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(program.stdout.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        assert!(first.starts_with("The fleet is up: nodes node-a and node-b."), "{first}");
        // What it says further on has a reader, so that it does not fail.
        thread::spawn(move || lines.for_each(drop));
        self.program = Some(program);
    }

    /// Has the fleet abort right after every write of a machine or a migration, and start again each time, while `work` is done.
    pub(crate) fn while_aborting(&mut self, work: impl FnOnce(&Self)) -> usize {
        self.kill();
        let is_over = AtomicBool::new(false);
        let (fleet, over) = (&*self, &is_over);
        let starts = thread::scope(|scope| {
            let starts = scope.spawn(move || {
                let mut starts = 0;
                while !over.load(Ordering::Relaxed) {
                    let mut command = command(fleet.dir());
                    command.args(["--abort-after", "1"]).stdout(Stdio::null()).stderr(Stdio::null());
                    let mut program = command.spawn().unwrap();
                    starts += 1;
                    while program.try_wait().unwrap().is_none() && !over.load(Ordering::Relaxed) {
                        thread::sleep(Duration::from_millis(5));
                    }
                    // It may have ended by itself.
                    let _ = program.kill();
                    program.wait().unwrap();
                }
                starts
            });
            // Whatever becomes of the work, the other thread ends.
            let outcome = catch_unwind(AssertUnwindSafe(|| work(fleet)));
            over.store(true, Ordering::Relaxed);
            let starts = starts.join().unwrap();
            outcome.map(|()| starts)
        });
        self.up();
        starts.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Says it to kubectl until it has taken effect, as far as one can see.
    pub(crate) fn insist(&self, line: &str, is_done: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_done() {
            assert!(Instant::now() < deadline, "kubectl {line}\n{}", self.log());
            self.run(&format!("{line} --request-timeout=5s"));
        }
    }

    /// A file with a manifest, by its path.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// Kills control plane and agents at once, without a chance to do anything.
    pub(crate) fn kill(&mut self) {
        let mut program = self.program.take().unwrap();
        program.kill().unwrap();
        program.wait().unwrap();
    }

    pub(crate) fn run(&self, line: &str) -> Output {
        let kubeconfig = self.dir().join("kubeconfig");
        Command::new("kubectl").env("KUBECONFIG", kubeconfig).args(line.split_whitespace()).output().unwrap()
    }

    pub(crate) fn kubectl(&self, line: &str) -> String {
        let output = self.run(line);
        assert!(output.status.success(), "kubectl {line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What `whimbrel` says to a line, and whether it succeeds.
    pub(crate) fn whimbrel(&self, line: &str) -> (String, bool) {
        let output = Command::new(assert_cmd::cargo::cargo_bin("whimbrel"))
            .env("KUBECONFIG", self.dir().join("kubeconfig"))
            .args(line.split_whitespace())
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (String::from_utf8(said).unwrap(), output.status.success())
    }

    /// Kills all VMMs, without a chance to do anything.
    pub(crate) fn kill_vmms(&self) {
        self.kill_vmms_where(|_| true);
    }

    /// Kills one VMM likewise.
    pub(crate) fn kill_vmm(&self, name: &str) {
        self.kill_vmms_where(|path| path.components().any(|part| part.as_os_str() == name));
    }

    fn kill_vmms_where(&self, is_meant: impl Fn(&Path) -> bool) {
        let ours = node::running().into_iter().filter(|(path, _)| path.starts_with(self.dir()));
        for (_, process) in ours.filter(|(path, _)| is_meant(path)) {
            let process = i32::try_from(process).ok().and_then(rustix::process::Pid::from_raw).unwrap();
            // It may have ended by itself.
            let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
        }
    }

    pub(crate) fn get(&self, what: &str) -> Value {
        let output = self.run(&format!("get {what} -o json"));
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    pub(crate) fn create(&self, text: &str) {
        let file = self.dir().join("manifest.yaml");
        fs::write(&file, text).unwrap();
        self.kubectl(&format!("create -f {}", file.display()));
    }

    pub(crate) fn migration(&self, name: &str) {
        self.create(&format!(
            "apiVersion: whimbrel.dev/v1\nkind: VirtualMachineInstanceMigration\nmetadata: {{name: {name}}}\n\
             spec: {{vmiName: busy}}\n"
        ));
    }

    /// Waits until it holds, and returns what was last seen.
    pub(crate) fn wait(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = self.get(what);
            if holds(&seen) {
                return seen;
            }
            assert!(Instant::now() < deadline, "{what} is {seen:#}\n{}", self.log());
            thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn wait_phase(&self, what: &str, phase: &str) -> Value {
        self.wait(what, |seen| seen["status"]["phase"] == phase)
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir().join("whimbrel.log")).unwrap_or_default()
    }

    /// A small machine that dirties some bytes each second.
    pub(crate) fn machine(&self, rate: &str) {
        self.create(&manifest(rate));
        self.wait_phase("vmi/busy", "Running");
    }

    /// A policy that makes a move last; for ever, where more is dirtied than it lets through.
    pub(crate) fn slow(&self, bandwidth: &str) {
        self.policy(&format!("bandwidthPerMigration: {bandwidth}"));
    }

    /// A policy with those lines, for the machine.
    pub(crate) fn policy(&self, lines: &str) {
        self.create(&format!(
            "apiVersion: whimbrel.dev/v1\nkind: MigrationPolicy\nmetadata: {{name: slow}}\nspec:\n  \
             selectors: {{virtualMachineInstanceSelector: {{app: busy}}}}\n  {}\n",
            lines.replace('\n', "\n  ")
        ));
    }

    /// VMMs that run, and folders of VMMs.
    pub(crate) fn vmms(&self) -> (usize, usize) {
        let is_ours = |path: &Path| path.starts_with(self.dir());
        let running = node::running().keys().filter(|path| is_ours(path)).count();
        let folders =
            ["node-a", "node-b"].map(|name| node::vmm_folders(&self.dir().join(name)).unwrap().len());
        (running, folders.iter().sum())
    }

    pub(crate) fn wait_vmms(&self, wanted: (usize, usize)) {
        let deadline = Instant::now() + PATIENCE;
        while self.vmms() != wanted {
            assert!(Instant::now() < deadline, "{:?}, not {wanted:?}\n{}", self.vmms(), self.log());
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if let Some(mut program) = self.program.take() {
            // It may have ended by itself.
            let _ = program.kill();
            let _ = program.wait();
        }
        self.kill_vmms();
    }
}

/// The manifest of a small machine that dirties some bytes each second.
pub(crate) fn manifest(rate: &str) -> String {
    let example = include_str!("../../../../examples/busy.yaml");
    example.replace("512Mi", "128Mi").replace("64M rate=50M", &format!("8M rate={rate}"))
}

/// `whimbrel up` for the fleet of a directory.
fn command(directory: &Path) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin("whimbrel"));
    command.args(["up", "--listen", "127.0.0.1:0", "--keep", "--dir"]).arg(directory).stdin(Stdio::null());
    command
}
