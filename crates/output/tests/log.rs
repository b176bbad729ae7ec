//! The log of a process whose reader stops reading, and reads on later.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    process::{Command, Stdio},
    time::Duration,
};

use output::Log;

/// Lines that the child writes before it waits: more than any pipe and what waits for it take.
const LINES: usize = 10_000;
const LINE: &str = "a line of the log that is about as long as those of a machine are\n";
/// Says in the environment that this is the child.
const CHILD: &str = "WHIMBREL_TEST_IS_THE_CHILD";

fn child() {
    Log::start(|| Ok(())).unwrap();
    for _ in 0..LINES {
        Log.write_all(LINE.as_bytes()).unwrap();
    }
    println!("written");
    io::stdin().read_line(&mut String::new()).unwrap();
    Log::finish(Duration::MAX);
    Log.write_all(b"read again\n").unwrap();
    Log::finish(Duration::MAX);
    std::process::exit(0);
}

#[test]
fn a_reader_that_stops_stops_nobody_and_is_told_what_it_missed() {
    if std::env::var_os(CHILD).is_some() {
        return child();
    }
    let this = "a_reader_that_stops_stops_nobody_and_is_told_what_it_missed";
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", this, "--nocapture"]).env(CHILD, "");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    let stdout = BufReader::new(process.stdout.take().unwrap());
    // Nothing is read from its log until it has written everything.
    assert!(stdout.lines().any(|line| line.unwrap().ends_with("written")));
    let mut log = BufReader::new(process.stderr.take().unwrap());
    let mut taken = 0;
    let mut line = String::new();
    // What waits is written before the child logs on.
    let full = rustix::pipe::fcntl_getpipe_size(log.get_ref()).unwrap() / LINE.len() / 2;
    while taken < full {
        line.clear();
        log.read_line(&mut line).unwrap();
        assert_eq!(line, LINE);
        taken += 1;
    }
    process.stdin.take().unwrap().write_all(b"\n").unwrap();
    let mut rest = String::new();
    log.read_to_string(&mut rest).unwrap();
    taken += rest.lines().filter(|line| *line == LINE.trim_end()).count();
    let lost = format!(
        "({} lines of the log were lost here: standard error did not take them)\nread again\n",
        LINES - taken
    );
    assert!(rest.ends_with(&lost), "{lost}{}", &rest[rest.len().saturating_sub(500)..]);
    assert!(process.wait().unwrap().success());
}
