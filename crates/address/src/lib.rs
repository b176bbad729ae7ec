//! Where a migration goes to or comes from, as people, QMP clients and other hosts write it.
//!
//! A description of a machine, the monitor and the transport all mean the same by an address. What a name resolves to is
//! the transport's business.

mod host;

use std::{fmt, path::PathBuf, str::FromStr};

/// Bytes of a socket's path that fit `struct sockaddr_un` beside its terminating zero (unix(7)).
pub const MAX_UNIX_PATH: usize = 107;

/// Characters of a wrong address that are worth repeating.
const SHOWN: usize = 300;

/// Where a destination listens: `tcp:HOST:PORT`, `tcp:[IPV6]:PORT` or `unix:PATH`. An IPv6 address that is link-local has the
/// interface behind it, `tcp:[fe80::1%eth0]:4444`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A TCP port.
    Tcp {
        /// Name or address of the host, without brackets, and with the interface of an address that is link-local.
        host: String,
        /// The port. 0 lets a listener choose, and is no port to dial.
        port: u16,
    },
    /// A unix socket.
    Unix(PathBuf),
}

/// Why a text is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// A transport that is not known, or none.
    #[error("Address '{typed}' begins with neither tcp: nor unix:. Write {FORMS}")]
    Transport {
        /// As typed.
        typed: String,
    },
    /// The host is missing, or is neither an address nor a name.
    #[error("Address '{typed}' {problem}. Write {FORMS}")]
    Host {
        /// As typed.
        typed: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The port is no number from 0 to 65535.
    #[error("Port '{typed}' is not a number from 0 to 65535. Write {FORMS}")]
    Port {
        /// As typed.
        typed: String,
    },
    /// Nobody listens at port 0.
    #[error(
        "Address '{typed}' is none to connect to: port 0 has a listener choose one. Give the port that it listens at"
    )]
    Chosen {
        /// The address.
        typed: String,
    },
    /// The path is empty, or too long for a socket's address.
    #[error(
        "Path '{typed}' cannot be a unix socket: it must have 1 to {MAX_UNIX_PATH} bytes, none of them zero"
    )]
    Path {
        /// As typed.
        typed: String,
    },
}

const FORMS: &str = "tcp:HOST:PORT, tcp:[IPV6]:PORT or unix:PATH";

impl Address {
    /// A TCP port, from host (an IPv6 address without brackets) and port as they come apart.
    ///
    /// # Errors
    /// One of them is none.
    pub fn tcp(host: &str, port: &str) -> Result<Self, AddressError> {
        host::check(host).map_err(|problem| AddressError::Host { typed: shown(host), problem })?;
        let wrong = || AddressError::Port { typed: shown(port) };
        // The parser of u16 would accept a sign.
        if !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        Ok(Self::Tcp { host: host.to_owned(), port: port.parse().map_err(|_| wrong())? })
    }

    /// A unix socket.
    ///
    /// # Errors
    /// The path cannot be one.
    pub fn unix(path: &str) -> Result<Self, AddressError> {
        if path.is_empty() || path.len() > MAX_UNIX_PATH || path.contains('\0') {
            return Err(AddressError::Path { typed: shown(path) });
        }
        Ok(Self::Unix(path.into()))
    }

    /// Checks that somebody may listen here: port 0 is for listeners, who choose another.
    ///
    /// # Errors
    /// It is port 0.
    pub fn check_to_dial(&self) -> Result<(), AddressError> {
        match self {
            Self::Tcp { port: 0, .. } => Err(AddressError::Chosen { typed: self.to_string() }),
            _ => Ok(()),
        }
    }

    /// Whether only this host can reach it: a loopback address, the name `localhost` (RFC 6761, section 6.3), or a unix
    /// socket. Other names count as reachable from outside, whatever they may resolve to.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Tcp { host, .. } => host::is_loopback(host),
            Self::Unix(_) => true,
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(typed: &str) -> Result<Self, AddressError> {
        let wrong = |problem| AddressError::Host { typed: shown(typed), problem };
        match typed.split_once(':') {
            Some(("unix", path)) => Self::unix(path),
            Some(("tcp", rest)) => {
                if let Some(bracketed) = rest.strip_prefix('[') {
                    let closed = bracketed.split_once(']');
                    let (host, rest) = closed.ok_or_else(|| wrong("has a bracket that is not closed"))?;
                    if !host::is_ipv6(host) {
                        return Err(wrong("has no IPv6 address in its brackets"));
                    }
                    let port =
                        rest.strip_prefix(':').ok_or_else(|| wrong("has no port behind its brackets"))?;
                    return Self::tcp(host, port);
                }
                let (host, port) = rest.rsplit_once(':').ok_or_else(|| wrong("has no port"))?;
                if host.contains(':') {
                    return Err(wrong("has an IPv6 address without brackets"));
                }
                Self::tcp(host, port)
            }
            _ => Err(AddressError::Transport { typed: shown(typed) }),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

fn shown(typed: &str) -> String {
    typed.chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(typed: &str) -> Address {
        typed.parse().unwrap()
    }

    #[test]
    fn addresses_print_as_they_are_typed() {
        for typed in
            ["tcp:127.0.0.1:4444", "tcp:[::1]:65535", "tcp:host-1.example.org:0", "unix:/run/a:b", "unix:rel"]
                .into_iter()
                .chain(["tcp:[fe80::1%eth0]:4444", "tcp:[fe80::1%3]:4444", "tcp:[fe80::1%br-0.7]:1"])
                .chain(["tcp:host.example.org.:4444"])
        {
            assert_eq!(address(typed).to_string(), typed);
        }
    }

    #[test]
    fn what_is_wrong_behind_brackets_is_told_of_as_such() {
        let told = |typed: &str| typed.parse::<Address>().unwrap_err().to_string();
        for (typed, said) in [
            ("tcp:[::1]", "no port behind its brackets"),
            ("tcp:[::1]4444", "no port behind its brackets"),
            ("tcp:[::1]:4444:1", "Port '4444:1' is not a number"),
            ("tcp:[::1:4444", "a bracket that is not closed"),
        ] {
            assert!(told(typed).contains(said), "{typed}: {}", told(typed));
        }
    }

    #[test]
    fn an_address_without_host_port_or_brackets_is_refused() {
        for typed in [
            "",
            "tcp",
            "tcp:",
            "tcp::1",
            "tcp:host",
            "tcp:host:",
            "tcp:host:65536",
            "tcp:host:+1",
            "tcp:host:-1",
            "tcp:::1:4444",
            "tcp:[::1]",
            "tcp:[::1]4444",
            "tcp:[::1]:4444:1",
            "tcp:[::1:4444",
            "tcp:[]:1",
            "tcp:[127.0.0.1]:1",
            "tcp:[fe80::1]:1",
            "tcp:[fe80::1%]:1",
            "tcp:[fe80::1%eth0%1]:1",
            "tcp:[fe80::1%a b]:1",
            "tcp:[fe80::1%a-name-that-is-too-long]:1",
            "tcp:[2001:db8::1%eth0]:1",
            "tcp:fe80::1%eth0:1",
            "tcp:.:1",
            "tcp:a..:1",
            "tcp:127.1.:1",
            "tcp:0:4444",
            "tcp:127.1:4444",
            "tcp:0x7f000001:4444",
            "tcp:127.0x1:4444",
            "tcp:256.0.0.1:1",
            "tcp:a..b:1",
            "tcp:-a:1",
            "tcp:hö:1",
            "tcp:a b:1",
            "tcp:a:1,to=9",
            "unix:",
            "unix:a\0b",
            "fd:3",
            "exec:cat",
            "127.0.0.1:4444",
            "TCP:a:1",
        ] {
            assert!(typed.parse::<Address>().is_err(), "{typed:?}");
        }
    }

    #[test]
    fn nobody_is_dialled_at_a_port_that_a_listener_chooses() {
        let refused = address("tcp:[::1]:0").check_to_dial().unwrap_err();
        assert!(refused.to_string().contains("'tcp:[::1]:0' is none to connect to"), "{refused}");
        address("tcp:[::1]:1").check_to_dial().unwrap();
        address("unix:a").check_to_dial().unwrap();
    }

    #[test]
    fn a_path_is_as_long_as_a_socket_can_have_it() {
        assert!(format!("unix:{}", "x".repeat(107)).parse::<Address>().is_ok());
        assert!(format!("unix:{}", "x".repeat(108)).parse::<Address>().is_err());
    }

    #[test]
    fn what_is_refused_is_not_repeated_at_any_length() {
        for typed in ["x".repeat(1 << 20), format!("tcp:{}:1", "x".repeat(1 << 20))] {
            assert!(typed.parse::<Address>().unwrap_err().to_string().len() < 1000);
        }
    }

    #[test]
    fn only_what_this_host_alone_can_reach_is_loopback() {
        for typed in
            ["tcp:127.9.9.9:1", "tcp:[::1]:1", "tcp:[::ffff:127.0.0.1]:1", "tcp:LocalHost:1", "unix:/run/a"]
                .into_iter()
                .chain(["tcp:localhost.:1"])
        {
            assert!(address(typed).is_loopback(), "{typed}");
        }
        for typed in [
            "tcp:0.0.0.0:1",
            "tcp:[::]:1",
            "tcp:10.0.0.1:1",
            "tcp:localhost.example.org:1",
            "tcp:128.0.0.1:1",
            "tcp:[fe80::1%lo]:1",
        ] {
            assert!(!address(typed).is_loopback(), "{typed}");
        }
    }
}
