//! A link between the two ends that carries only so much, as between hosts: two network namespaces, and a token
//! bucket of the kernel's at either end of a cable between them.

use std::{
    fmt,
    fs::File,
    io::{self, BufRead as _, BufReader},
    os::{fd::AsFd as _, unix::process::CommandExt as _},
    process::{Child, Command, Stdio},
    str::FromStr,
    thread::{self, JoinHandle},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::Serialize;

use super::End;

/// Addresses of the two ends, of which nobody outside knows.
const SOURCE: &str = "10.0.0.1";
const DESTINATION: &str = "10.0.0.2";
/// The name of the cable's end in each namespace.
const CARD: &str = "card0";
/// What a bucket holds at least: the kernel hands a card up to 64 KiB at once, and would cut them up otherwise.
const LEAST_BURST: u64 = 128 << 10;

/// Bits per second: 1 Mbit/s to 400 Gbit/s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct BitRate(u64);

/// Why there is no such link.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// Only root may make one.
    #[error(
        "A link of a given rate is made of network namespaces, which only root may have: run this as root"
    )]
    NotRoot,
    /// A program is missing, or does not do what it was asked for.
    #[error("A link of a given rate needs {package}: '{command}' failed: {said}")]
    Program {
        /// What was run.
        command: String,
        /// The package that has it.
        package: &'static str,
        /// What it said, or the kernel.
        said: String,
    },
}

/// Two ends with a cable between them. All of it is gone when this is dropped, and when this process is killed.
#[derive(Debug)]
pub(crate) struct Link {
    source: Namespace,
    destination: Namespace,
}

/// A network namespace. It is there as long as a process is in it; this one ends when nobody holds the other end of
/// its input.
#[derive(Debug)]
pub(crate) struct Namespace(Child);

impl Link {
    /// Where the destination is on it.
    pub(crate) const DESTINATION: &str = DESTINATION;
    /// The name of either end's card.
    pub(crate) const CARD: &str = CARD;

    pub(crate) fn make() -> Result<Self, LinkError> {
        if !rustix::process::geteuid().is_root() {
            return Err(LinkError::NotRoot);
        }
        let link = Self { source: Namespace::make()?, destination: Namespace::make()? };
        let there = link.destination.0.id().to_string();
        link.source.ip(&["link", "add", CARD, "type", "veth", "peer", "name", CARD, "netns", &there])?;
        for (end, address) in [(&link.source, SOURCE), (&link.destination, DESTINATION)] {
            end.ip(&["address", "add", &format!("{address}/24"), "dev", CARD])?;
            end.ip(&["link", "set", CARD, "up"])?;
        }
        Ok(link)
    }

    /// From here on it carries so much, in each direction.
    pub(crate) fn carries(&self, rate: BitRate) -> Result<(), LinkError> {
        let (bits, burst) = (format!("{}bit", rate.0), format!("{}b", rate.burst_bytes()));
        for end in [&self.source, &self.destination] {
            let bucket = ["rate", &bits, "burst", &burst, "latency", "50ms"];
            let words = [&["qdisc", "replace", "dev", CARD, "root", "tbf"][..], &bucket].concat();
            done("iproute2", end.enter().arg("tc").args(words))?;
        }
        Ok(())
    }

    /// `command`, at that end.
    pub(crate) fn at(&self, end: End, command: &Command) -> Command {
        let mut there = self.end(end).enter();
        there.arg(command.get_program()).args(command.get_args());
        there
    }

    /// The namespace of that end.
    pub(crate) fn end(&self, end: End) -> &Namespace {
        match end {
            End::Source => &self.source,
            End::Destination => &self.destination,
        }
    }
}

impl Namespace {
    pub(crate) fn make() -> Result<Self, LinkError> {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "echo up; exec cat"]);
        // A group of its own: Ctrl-C at the terminal is for us, who end it when the machines in it have ended.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let text = shown(&command);
        let failed = |said: String| LinkError::Program { command: text, package: "util-linux", said };
        let child = match command.spawn() {
            Ok(child) => child,
            Err(error) => return Err(failed(error.to_string())),
        };
        let mut namespace = Self(child);
        let mut line = String::new();
        if let Some(out) = namespace.0.stdout.take() {
            // Without a line it has ended, and has said why on standard error.
            let _ = BufReader::new(out).read_line(&mut line);
        }
        if line == "up\n" { Ok(namespace) } else { Err(failed("it ended".into())) }
    }

    /// A command of which only what it is to run there is missing. It has the process id that it is started with.
    fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.0.id())).arg("--");
        command
    }

    /// Does a command of ip(8) there.
    pub(crate) fn ip(&self, words: &[&str]) -> Result<(), LinkError> {
        done("iproute2", self.enter().arg("ip").args(words))
    }

    /// Starts a thread that is there. What it opens there stays there.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<JoinHandle<io::Result<T>>> {
        let link = File::open(format!("/proc/{}/ns/net", self.process_id()))?;
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            move_into_link_name_space(link.as_fd(), Some(LinkNameSpaceType::Network))?;
            work()
        })
    }

    /// The process that keeps it.
    pub(crate) fn process_id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // It is gone already if that fails.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs it to its end, which must be a good one.
fn done(package: &'static str, command: &mut Command) -> Result<(), LinkError> {
    let output = command.stdin(Stdio::null()).output();
    let said = match output {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    Err(LinkError::Program { command: shown(command), package, said })
}

fn shown(command: &Command) -> String {
    format!("{command:?}").replace('"', "")
}

impl BitRate {
    /// So many bytes per second.
    pub(crate) fn of_bytes(bytes: u64) -> Self {
        Self(bytes.saturating_mul(8))
    }

    /// As bytes per second.
    pub(crate) fn bytes(self) -> f64 {
        self.0 as f64 / 8.0
    }

    /// What may pass at once: as much as passes in a millisecond, in which the kernel looks again.
    fn burst_bytes(self) -> u64 {
        (self.0 / 8000).max(LEAST_BURST)
    }
}

impl FromStr for BitRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || "not a rate from 1Mbit to 400Gbit, such as 10Gbit".to_owned();
        let (number, unit) = [("Mbit", 1_000_000), ("Gbit", 1_000_000_000)]
            .into_iter()
            .find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))
            .ok_or_else(wrong)?;
        let bits = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
        bits.filter(|bits| (1_000_000..=400_000_000_000).contains(bits)).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for BitRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bits if bits % 1_000_000_000 == 0 => write!(f, "{} Gbit/s", bits / 1_000_000_000),
            bits => write!(f, "{} Mbit/s", bits as f64 / 1e6),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        time::{Duration, Instant},
    };

    use super::*;

    #[test]
    fn a_rate_is_read_as_it_is_written_and_what_is_none_is_refused() {
        let shown = |text: &str| text.parse::<BitRate>().map(|rate| rate.to_string());
        assert_eq!(shown("10Gbit").unwrap(), "10 Gbit/s");
        assert_eq!(shown("2500Mbit").unwrap(), "2500 Mbit/s");
        assert_eq!("8Gbit".parse::<BitRate>().unwrap().bytes(), 1e9);
        for wrong in ["", "Gbit", "0Gbit", "401Gbit", "-1Gbit", "1", "1 Gbit", "18446744073709551615Gbit"] {
            assert!(shown(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_link_carries_what_it_should_and_nothing_is_left_of_it() {
        let link = match Link::make() {
            Ok(link) => link,
            Err(error @ LinkError::NotRoot) => return output::complain!("SKIPPED: {error}"),
            Err(error) => panic!("{error}"),
        };
        link.carries("80Mbit".parse().unwrap()).unwrap();
        let ids = [&link.source, &link.destination].map(|end| end.0.id());
        let listen = "import socket as s; l = s.create_server(('10.0.0.2', 7)); print('up', flush=True); c, _ = l.accept(); \
                      n = sum(len(b) for b in iter(lambda: c.recv(1 << 20), b'')); print(n)";
        let send = "import socket as s; c = s.create_connection(('10.0.0.2', 7)); c.sendall(bytes(8 << 20))";
        let python = |end, script: &str| {
            let mut command = Command::new("python3");
            link.at(end, command.args(["-c", script])).stdout(Stdio::piped()).spawn().unwrap()
        };
        let mut there = python(End::Destination, listen);
        let mut said = BufReader::new(there.stdout.take().unwrap()).lines();
        assert_eq!(said.next().unwrap().unwrap(), "up");
        let begun = Instant::now();
        assert!(python(End::Source, send).wait().unwrap().success());
        assert_eq!(said.next().unwrap().unwrap(), (8 << 20).to_string());
        // 0.84 s at that rate, but for what is in the bucket; without the link it is some milliseconds.
        assert!(begun.elapsed() > Duration::from_millis(700), "{:?}", begun.elapsed());
        there.wait().unwrap();
        drop(link);
        assert!(ids.iter().all(|id| fs::metadata(format!("/proc/{id}")).is_err()));
    }
}
