//! What `whimbrel up` asks at its end, at a terminal.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Instant,
};

use super::{Fleet, site::PATIENCE};

/// `whimbrel up` at a terminal, as `script` makes one. `None`, loudly, where there is none.
struct Terminal {
    program: Child,
    keys: ChildStdin,
    lines: Receiver<String>,
}

impl Terminal {
    fn up(fleet: &Fleet) -> Option<Self> {
        let whimbrel = assert_cmd::cargo::cargo_bin("whimbrel");
        // Without `exec`, some shells stay around it, are interrupted as well and say so at the end.
        let line =
            format!("exec {} up --listen 127.0.0.1:0 --dir {}", whimbrel.display(), fleet.dir().display());
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let Ok(mut program) = command.spawn() else {
            eprintln!("SKIPPED: NOBODY WAS ASKED. There is no script(1)");
            return None;
        };
        let keys = program.stdin.take().unwrap();
        let (sender, lines) = channel();
        let out = BufReader::new(program.stdout.take().unwrap());
        // It ends with the program.
        thread::spawn(move || {
            // A question ends with a bracket and a space, and no line follows.
            out.split(b']')
                .map_while(Result::ok)
                .try_for_each(|text| sender.send(String::from_utf8_lossy(&text).into_owned()))
        });
        Some(Self { program, keys, lines })
    }

    /// Waits until these words were said.
    fn says(&self, words: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut said = String::new();
        while !said.contains(words) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(text) => said.push_str(&text),
                Err(_) => panic!("it does not say {words:?}: {said}"),
            }
        }
        said
    }

    fn types(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    fn ends(&mut self) {
        assert!(self.program.wait().unwrap().success());
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

#[test]
fn machines_end_with_the_fleet_only_where_somebody_says_so() {
    let Some(fleet) = Fleet::prepare() else { return };
    let Some(mut terminal) = Terminal::up(&fleet) else { return };
    fleet.wait("nodes", |seen| seen["items"].as_array().is_some_and(|nodes| nodes.len() == 2));
    fleet.machine("1M");
    terminal.types("\x03");
    terminal.says("End 1 running machines too? [y/N");
    terminal.types("n\r");
    terminal.says("1 machines go on.");
    terminal.ends();
    assert_eq!(fleet.vmms().0, 1);
    let Some(mut terminal) = Terminal::up(&fleet) else { return };
    fleet.wait_phase("vmi/busy", "Running");
    terminal.types("\x03");
    terminal.says("End 1 running machines too? [y/N");
    terminal.types("y\r");
    terminal.says("1 machines ended.");
    terminal.ends();
    assert_eq!(fleet.vmms().0, 0);
}
