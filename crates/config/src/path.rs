use std::{
    fmt,
    path::{Component, Path},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::{ValueError, convert::written_as_text, options::split};

/// The path of a file: UTF-8, not empty, without NUL, at most 4095 bytes, and not visibly a directory.
///
/// Relative paths are relative to the working directory of the VMM, wherever they were written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FilePath(String);

/// The path of a directory: UTF-8, not empty, without NUL, at most 4095 bytes.
///
/// Relative paths are relative to the working directory of the VMM, wherever they were written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DirectoryPath(String);

/// The path of a unix socket: a file path of at most 107 bytes, which is what `sockaddr_un` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SocketPath(String);

/// Where the serial port of the guest leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SerialPort {
    /// Standard input and output of the VMM.
    Stdio,
    /// Output goes to a file; there is no input.
    File(FilePath),
    /// The VMM listens on a unix socket; one client at a time.
    Unix {
        /// The socket.
        socket: SocketPath,
        /// A file that all output goes to as well, whether there is a client or not.
        log: Option<FilePath>,
    },
    /// Nowhere: the guest has the port, output is dropped.
    None,
}

/// Where the monitor listens. Written `unix:PATH`; QEMU's `unix:PATH,server=on,wait=off` means the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MonitorSocket(SocketPath);

impl FilePath {
    /// Linux's `PATH_MAX`, less the final NUL.
    const MAX_BYTES: usize = 4095;

    /// The path.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl DirectoryPath {
    /// The path.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl SocketPath {
    /// `sizeof(sockaddr_un.sun_path)`, less the final NUL.
    const MAX_BYTES: usize = 107;

    /// The path.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl MonitorSocket {
    /// The path of the socket.
    #[must_use]
    pub fn path(&self) -> &SocketPath {
        &self.0
    }
}

fn named(part: &Component<'_>) -> bool {
    *part != Component::CurDir
}

/// Whether two paths are spellings of one (`a//b`, `./a/b`). Links are found when the VMM locks what it opens.
pub(crate) fn same_path(a: &Path, b: &Path) -> bool {
    a.components().filter(named).eq(b.components().filter(named))
}

impl FromStr for FilePath {
    type Err = ValueError;

    fn from_str(typed: &str) -> Result<Self, ValueError> {
        let problem = if typed.is_empty() {
            "is empty: write the path of a file"
        } else if typed.contains('\0') {
            "contains a NUL character: remove it"
        } else if typed.len() > Self::MAX_BYTES {
            "is longer than 4095 bytes, which no file system allows"
        } else if ["/", "/.", "/.."].iter().any(|end| typed.ends_with(end)) || matches!(typed, "." | "..") {
            "is a directory: write the path of a file"
        } else {
            return Ok(Self(typed.into()));
        };
        Err(ValueError::Path { typed: typed.chars().take(80).collect(), problem })
    }
}

impl FromStr for DirectoryPath {
    type Err = ValueError;

    fn from_str(typed: &str) -> Result<Self, ValueError> {
        let problem = if typed.is_empty() {
            "is empty: write the path of a directory"
        } else if typed.contains('\0') {
            "contains a NUL character: remove it"
        } else if typed.len() > FilePath::MAX_BYTES {
            "is longer than 4095 bytes, which no file system allows"
        } else {
            return Ok(Self(typed.into()));
        };
        Err(ValueError::Path { typed: typed.chars().take(80).collect(), problem })
    }
}

impl FromStr for SocketPath {
    type Err = ValueError;

    fn from_str(typed: &str) -> Result<Self, ValueError> {
        let FilePath(path) = typed.parse()?;
        if path.len() > Self::MAX_BYTES {
            let problem =
                "is longer than 107 bytes, the most a unix socket can have: use a shorter directory";
            return Err(ValueError::Path { typed: path, problem });
        }
        Ok(Self(path))
    }
}

/// Between the socket of a serial port and its log, as QEMU writes it for a character device.
const LOG_FILE: &str = ",logfile=";

impl FromStr for SerialPort {
    type Err = ValueError;

    fn from_str(typed: &str) -> Result<Self, ValueError> {
        match (typed, typed.split_once(':')) {
            ("stdio", _) => Ok(Self::Stdio),
            ("none", _) => Ok(Self::None),
            (_, Some(("file", path))) => Ok(Self::File(path.parse()?)),
            (_, Some(("unix", place))) => {
                let (socket, log) = match place.split_once(LOG_FILE) {
                    Some((socket, log)) => (socket, Some(log.parse()?)),
                    None => (place, None),
                };
                Ok(Self::Unix { socket: socket.parse()?, log })
            }
            _ => Err(ValueError::Choice {
                typed: typed.into(),
                choices: "a place for the serial port: write stdio, none, file:PATH, unix:PATH or unix:PATH,logfile=PATH",
            }),
        }
    }
}

impl fmt::Display for SerialPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdio => f.write_str("stdio"),
            Self::File(path) => write!(f, "file:{path}"),
            Self::Unix { socket, log: None } => write!(f, "unix:{socket}"),
            Self::Unix { socket, log: Some(log) } => write!(f, "unix:{socket}{LOG_FILE}{log}"),
            Self::None => f.write_str("none"),
        }
    }
}

impl FromStr for MonitorSocket {
    type Err = ValueError;

    fn from_str(typed: &str) -> Result<Self, ValueError> {
        let mut parts = split(typed).into_iter();
        let address = parts.next().unwrap_or_default();
        let Some(path) = address.strip_prefix("unix:") else {
            return Err(ValueError::Choice {
                typed: typed.into(),
                choices: "a place for a monitor: write unix:PATH",
            });
        };
        // `server` and `nowait` alone are how QEMU up to 5 spelled it.
        match parts.find(|part| !matches!(part.as_str(), "server=on" | "server" | "wait=off" | "nowait")) {
            Some(typed) => Err(ValueError::MonitorOption { typed }),
            None => Ok(Self(path.parse()?)),
        }
    }
}

impl fmt::Display for MonitorSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix:{}", self.0.0.replace(',', ",,"))
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for DirectoryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for SocketPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

written_as_text!(FilePath DirectoryPath SocketPath SerialPort MonitorSocket);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_an_empty_path_and_a_nul_are_no_files() {
        for typed in ["", "/", "/tmp/", ".", "..", "/tmp/.", "a/..", "a\0b", &"x".repeat(4096)] {
            assert!(typed.parse::<FilePath>().is_err(), "{typed:?}");
        }
        for typed in ["a", "./a", "/a b", "...", "a.", "dé,=:"] {
            assert_eq!(typed.parse::<FilePath>().unwrap().to_string(), typed);
        }
    }

    #[test]
    fn a_directory_may_be_written_with_a_slash_at_its_end() {
        for typed in ["/var/lib/reports/", "/", ".", "reports"] {
            assert_eq!(typed.parse::<DirectoryPath>().unwrap().to_string(), typed);
        }
        for typed in ["", "a\0b", &"x".repeat(4096)] {
            assert!(typed.parse::<DirectoryPath>().is_err(), "{typed:?}");
        }
    }

    #[test]
    fn a_socket_path_fits_sockaddr_un() {
        assert!("x".repeat(107).parse::<SocketPath>().is_ok());
        assert!("x".repeat(108).parse::<SocketPath>().is_err());
    }

    #[test]
    fn serial_ports_print_as_they_are_typed() {
        for typed in ["stdio", "none", "file:/tmp/a,b", "unix:/tmp/s", "unix:/tmp/s,logfile=/tmp/l"] {
            assert_eq!(typed.parse::<SerialPort>().unwrap().to_string(), typed);
        }
        for typed in
            ["", "stdio:", "pty", "file:", "unix:", "file:/tmp/", "tcp:localhost:1", "unix:/tmp/s,logfile="]
        {
            assert!(typed.parse::<SerialPort>().is_err(), "{typed:?}");
        }
    }

    #[test]
    fn a_monitor_takes_the_socket_options_of_qemu_scripts() {
        let plain: MonitorSocket = "unix:/tmp/m".parse().unwrap();
        for typed in ["unix:/tmp/m,server=on,wait=off", "unix:/tmp/m,server,nowait", "unix:/tmp/m,server=on"]
        {
            assert_eq!(typed.parse::<MonitorSocket>().unwrap(), plain, "{typed}");
        }
        for typed in [
            "unix:/tmp/m,server=off",
            "unix:/tmp/m,wait=on",
            "unix:/tmp/m,",
            "tcp:localhost:4444",
            "/tmp/m",
            "",
        ] {
            assert!(typed.parse::<MonitorSocket>().is_err(), "{typed:?}");
        }
    }

    #[test]
    fn a_comma_in_the_path_of_a_monitor_is_written_twice() {
        let socket: MonitorSocket = "unix:/tmp/a,,b".parse().unwrap();
        assert_eq!(socket.path().as_path(), Path::new("/tmp/a,b"));
        assert_eq!(socket.to_string(), "unix:/tmp/a,,b");
    }
}
