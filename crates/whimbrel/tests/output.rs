//! `whimbrel` when nobody reads what it prints, or nothing more can be written.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_secs(30);

/// An output whose reader is gone.
fn gone() -> Stdio {
    let (_, writer) = std::io::pipe().unwrap();
    writer.into()
}

fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

fn start(arguments: &[&str], stdout: Stdio, stderr: Stdio) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_whimbrel"));
    command.args(arguments).stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn().unwrap()
}

fn run(arguments: &[&str], stdout: Stdio, stderr: Stdio) -> Output {
    start(arguments, stdout, stderr).wait_with_output().unwrap()
}

#[test]
fn help_for_a_reader_that_has_gone_is_no_error() {
    for arguments in [&["--help"][..], &["--version"], &["monitor", "--help"], &["soak", "--help"]] {
        let output = run(arguments, gone(), Stdio::piped());
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]), "{arguments:?}");
    }
}

#[test]
fn an_error_that_cannot_be_said_still_is_one() {
    for stderr in [gone, full] {
        for command in ["monitor", "report"] {
            let output = run(&[command, "/nowhere"], Stdio::null(), stderr());
            assert_eq!(output.status.code(), Some(1), "{command}");
        }
    }
}

/// Tries until it works. The process must not end meanwhile.
fn as_long_as_it_lives<T>(process: &mut Child, mut attempt: impl FnMut() -> std::io::Result<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert_eq!(process.try_wait().unwrap(), None, "it has ended");
        match attempt() {
            Ok(done) => return done,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_proxy_that_nobody_listens_to_passes_everything_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let listener = UnixListener::bind(path("behind")).unwrap();
    listener.set_nonblocking(true).unwrap();
    let (front, behind) =
        (format!("unix:{}", path("front").display()), format!("unix:{}", path("behind").display()));
    for output in [gone, full] {
        let mut proxy = start(&["proxy", &front, &behind], output(), output());
        for _ in 0..2 {
            let mut client = as_long_as_it_lives(&mut proxy, || UnixStream::connect(path("front")));
            // It speaks of what it cannot pass on, which it has to say somewhere.
            client.write_all(b"no frame of ours, and longer than any head of one").unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
            let (mut server, _) = as_long_as_it_lives(&mut proxy, || listener.accept());
            server.set_nonblocking(false).unwrap();
            server.set_read_timeout(Some(PATIENCE)).unwrap();
            server.read_to_end(&mut Vec::new()).unwrap();
        }
        assert_eq!(proxy.try_wait().unwrap(), None, "it has ended");
        proxy.kill().unwrap();
        proxy.wait().unwrap();
        std::fs::remove_file(path("front")).unwrap();
    }
}
