//! Boots the image on an emulated machine and reads its reports: the guest and the reader of its lines must
//! agree, and both ways out of ring 0 must work. Needs QEMU; no KVM.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use whimbrel_guests::{Report, parse_report, write_workload};

const QEMU: &str = "qemu-system-x86_64";
/// An emulated CPU on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

struct Machine {
    qemu: Child,
    lines: Receiver<String>,
    deadline: Instant,
    _directory: tempfile::TempDir,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

impl Machine {
    /// Starts a machine with CPUs of this model. `None`, loudly, where there is no QEMU.
    fn start(model: &str, command_line: &str) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let image = write_workload(directory.path()).expect("room for the image");
        let spawned = Command::new(QEMU)
            .args(["-M", "microvm", "-accel", "tcg,thread=multi", "-cpu", model, "-smp", "2", "-m", "64"])
            .args(["-display", "none", "-serial", "stdio", "-no-reboot", "-append", command_line, "-kernel"])
            .arg(image)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut qemu = match spawned {
            Ok(qemu) => qemu,
            Err(error) => {
                eprintln!("SKIPPED: THE WORKLOAD GUEST WAS NOT BOOTED. Cannot run {QEMU}: {error}");
                return None;
            }
        };
        let (sender, lines) = channel();
        let serial = BufReader::new(qemu.stdout.take().expect("a pipe, as was asked for"));
        thread::spawn(move || serial.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Some(Self { qemu, lines, deadline: Instant::now() + PATIENCE, _directory: directory })
    }

    /// The first line of which `pick` makes something.
    fn wait_for<T>(&mut self, what: &str, pick: impl Fn(&str) -> Option<T>) -> T {
        loop {
            match self.lines.recv_timeout(self.deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    assert!(!line.contains("whimbrel fault") && !line.contains("whimbrel panic"), "{line}");
                    if let Some(picked) = pick(&line) {
                        return picked;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("no {what} within {PATIENCE:?}"),
                Err(RecvTimeoutError::Disconnected) => panic!("QEMU ended before {what}"),
            }
        }
    }

    fn wait_for_report(&mut self, what: &str, is_it: impl Fn(&Report) -> bool) -> Report {
        self.wait_for(what, |line| parse_report(line).filter(&is_it))
    }
}

fn runs_and_finds_its_memory_whole(model: &str, way_to_ring3: &str) {
    let line = "own=8M work=2M rate=1M cpus=2 fill=text report=200 seed=7 nonsense=1";
    let Some(mut machine) = Machine::start(model, line) else { return };
    machine.wait_for("word about the unknown word", |line| {
        line.contains("whimbrel warning unknown-word word=nonsense=1").then_some(())
    });
    let boot = machine.wait_for("boot line", |line| line.contains("whimbrel boot ").then(|| line.to_owned()));
    assert!(boot.contains(&format!("ring3={way_to_ring3}")), "{boot}");
    assert!(boot.contains("owned=8388608 work=2097152 rate=1000000"), "{boot}");
    let first = machine.wait_for_report("report after two passes", |report| report.passes >= 2);
    assert_eq!((first.cpus, first.filled, first.owned, first.work), (2, true, 8 << 20, 2 << 20));
    let later = machine.wait_for_report("later report", |report| report.dirtied > first.dirtied);
    assert!(later.sequence > first.sequence && later.tsc_ms > first.tsc_ms);
    assert_eq!((later.errors, later.tsc_back, later.count("lost")), (0, 0, Some(0)));
}

#[test]
fn the_guest_runs_on_an_intel_processor() {
    runs_and_finds_its_memory_whole("Skylake-Client", "sysexit");
}

#[test]
fn the_guest_runs_on_an_amd_processor() {
    runs_and_finds_its_memory_whole("EPYC", "iretq");
}
