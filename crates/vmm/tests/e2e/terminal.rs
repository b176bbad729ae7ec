//! A serial port on a terminal: the guest gets every key but the one that interrupts, and the shell gets its terminal back.
//!
//! The terminals are real: `script` makes one, and a shell in it starts the machine as a user would.

use std::{
    fs::{self, File},
    io::Write as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use monitor::Client;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::{Lab, PATIENCE, Spec, holds, until};

/// A machine on a terminal.
struct Session {
    lab: Lab,
    script: Child,
    machine: Pid,
    /// The terminal's device.
    terminal: PathBuf,
}

/// The shell waits in the foreground, or has the machine in the background of a terminal that stops whoever writes from there.
const FOREGROUND: &str = "trap : INT; stty -a > before; start; echo $? > status; stty -a > after";
const BACKGROUND: &str =
    "set -m; stty tostop; stty -a > before; start & wait $!; echo $? > status; stty -a > after";

impl Session {
    /// Has a shell start a machine, or answers none where KVM cannot be used.
    fn new(shell: &str) -> Option<Self> {
        let lab = Lab::new()?;
        let mut flags = lab.flags(&Spec::calm());
        flags.extend(["--serial".into(), "stdio".into(), "--monitor".into(), "unix:qmp".into()]);
        let program = env!("CARGO_BIN_EXE_whimbrel-vmm");
        let words: Vec<_> = std::iter::once(program).chain(flags.iter().map(String::as_str)).collect();
        let start = format!("sh -c 'echo $$ > pid; exec \"$@\" 2> log' sh '{}'", words.join("' '"));
        let folder = lab.path("");
        let text = format!("cd {}\nstart() {{ {start}; }}\n{shell}\n", folder.display());
        let file = lab.file("session", text.as_bytes());
        let script = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "script", "--quiet", "--command"])
            .arg(format!("sh {}", file.display()))
            .arg("/dev/null")
            .stdin(Stdio::piped())
            .stdout(File::create(lab.path("screen")).unwrap())
            .spawn()
            .unwrap();
        let machine = until("the machine is started", || {
            Pid::from_raw(fs::read_to_string(lab.path("pid")).ok()?.trim().parse().ok()?)
        });
        let terminal = fs::read_link(format!("/proc/{machine}/fd/0")).unwrap();
        let session = Self { lab, script, machine, terminal };
        session.shows("whimbrel filled");
        Some(session)
    }

    fn shows(&self, text: &str) {
        let screen = self.lab.path("screen");
        holds(&format!("'{text}' is on the screen"), || {
            String::from_utf8_lossy(&fs::read(&screen).unwrap()).contains(text)
        });
    }

    fn types(&mut self, keys: &[u8]) {
        let keyboard = self.script.stdin.as_mut().unwrap();
        keyboard.write_all(keys).unwrap();
        keyboard.flush().unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.machine, signal).unwrap();
    }

    /// Attributes of the terminal now.
    fn attributes(&self) -> String {
        let shown = Command::new("stty").arg("-a").arg("-F").arg(&self.terminal).output().unwrap();
        assert!(shown.status.success(), "{shown:?}");
        String::from_utf8(shown.stdout).unwrap()
    }

    fn before(&self) -> String {
        fs::read_to_string(self.lab.path("before")).unwrap()
    }

    /// Waits until the machine has ended, checks that the terminal is as it was, and returns the exit status.
    fn end(mut self) -> i32 {
        let after = until("the machine ends", || {
            fs::read_to_string(self.lab.path("after")).ok().filter(|after| after.ends_with('\n'))
        });
        // The shell says more of a machine that crashed than fits a status.
        let status = fs::read_to_string(self.lab.path("status")).unwrap();
        assert_eq!(after, self.before(), "{status}: {}", fs::read_to_string(self.lab.path("log")).unwrap());
        self.script.wait().unwrap();
        status.trim().parse().unwrap()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = kill_process(self.machine, Signal::KILL);
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

fn has(attributes: &str, words: &[&str]) {
    for word in words {
        assert!(attributes.split([' ', ';', '\n']).any(|found| found == *word), "{word}: {attributes}");
    }
}

#[test]
fn the_guest_gets_every_key_but_the_one_that_interrupts() {
    let Some(mut session) = Session::new(FOREGROUND) else { return };
    let attributes = session.attributes();
    has(&attributes, &["-icanon", "-echo", "-icrnl", "-ixon", "isig", "opost"]);
    has(&session.before(), &["icanon", "echo", "icrnl", "isig", "opost"]);
    // Ctrl-Z and Ctrl-\ are the guest's.
    session.types(b"\x1a\x1chello-guest\n");
    session.shows("hello-guest");
    session.types(b"\x03");
    assert_eq!(session.end(), 0);
}

#[test]
fn the_terminal_is_as_it_was_after_a_signal() {
    for signal in [Signal::TERM, Signal::HUP, Signal::QUIT] {
        let Some(session) = Session::new(FOREGROUND) else { return };
        session.signal(signal);
        assert_eq!(session.end(), 0);
    }
}

#[test]
fn the_terminal_is_as_it_was_after_quit() {
    let Some(session) = Session::new(FOREGROUND) else { return };
    let mut client = Client::connect(&session.lab.path("qmp"), PATIENCE).unwrap();
    client.execute("quit", Value::Null).unwrap();
    assert_eq!(session.end(), 0);
}

#[test]
fn the_terminal_is_as_it_was_after_a_crash() {
    for signal in [Signal::SEGV, Signal::ABORT] {
        let Some(session) = Session::new(FOREGROUND) else { return };
        session.signal(signal);
        assert_eq!(session.end(), 128 + signal.as_raw());
    }
}

#[test]
fn a_machine_that_was_stopped_has_the_terminal_again_when_it_goes_on() {
    let Some(session) = Session::new(FOREGROUND) else { return };
    session.signal(Signal::STOP);
    let stopped = Command::new("stty").args(["sane", "-F"]).arg(&session.terminal).status().unwrap();
    assert!(stopped.success());
    has(&session.attributes(), &["icanon", "echo"]);
    session.signal(Signal::CONT);
    holds("the terminal is the guest's again", || session.attributes().contains("-icanon"));
    session.signal(Signal::TERM);
    // The shell that waits for it may have been told otherwise, but the terminal is as it was found.
    assert_eq!(session.end(), 0);
}

#[test]
fn a_machine_in_the_background_runs_on_and_leaves_the_terminal_alone() {
    let Some(mut session) = Session::new(BACKGROUND) else { return };
    session.types(b"this is not for the guest\n");
    session.shows("whimbrel seq=3");
    assert_eq!(session.attributes(), session.before());
    session.signal(Signal::TERM);
    assert_eq!(session.end(), 0);
}
