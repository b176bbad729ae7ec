use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::{SocketPath, ValueError, convert::written_as_text};

/// Where a migration goes to or comes from: `tcp:HOST:PORT`, `tcp:[IPV6]:PORT` or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Endpoint {
    /// A TCP port.
    Tcp {
        /// Address or name of the host.
        host: Host,
        /// The port. 0 lets a listener choose, and is no port to dial.
        port: u16,
    },
    /// A unix socket.
    Unix(SocketPath),
}

/// A host, by address or by name. Prints without brackets, as resolvers take it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// An IPv4 or IPv6 address.
    Ip(IpAddr),
    /// A host name: letters, digits, `-`, `_` and `.`. Resolved by whoever dials or listens.
    Name(String),
}

/// How a VM that is to be migrated in gets to know where from (`--incoming`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Incoming {
    /// It listens here as soon as it has started.
    At(Endpoint),
    /// It waits for the monitor command `migrate-incoming`.
    Defer,
}

impl Endpoint {
    /// Whether only this host can reach it: a loopback address, the name `localhost` (RFC 6761, section 6.3), or a unix
    /// socket. Other names count as reachable from outside, whatever they may resolve to.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Tcp { host: Host::Ip(ip), .. } => ip.to_canonical().is_loopback(),
            Self::Tcp { host: Host::Name(name), .. } => name.eq_ignore_ascii_case("localhost"),
            Self::Unix(_) => true,
        }
    }
}

impl FromStr for Endpoint {
    type Err = ValueError;

    fn from_str(typed: &str) -> Result<Self, ValueError> {
        let wrong = |problem| ValueError::Endpoint { typed: typed.chars().take(300).collect(), problem };
        match typed.split_once(':') {
            Some(("unix", path)) => Ok(Self::Unix(path.parse()?)),
            Some(("tcp", address)) => {
                let (host, port) = address.rsplit_once(':').ok_or_else(|| wrong("has no port"))?;
                // u16's own parser would accept a sign.
                if !port.bytes().all(|byte| byte.is_ascii_digit()) {
                    return Err(wrong("has a port that is not a number"));
                }
                let port = port.parse().map_err(|_| wrong("has a port that is not from 0 to 65535"))?;
                Ok(Self::Tcp { host: host_of(host).map_err(wrong)?, port })
            }
            _ => Err(wrong("begins with neither tcp: nor unix:")),
        }
    }
}

fn host_of(typed: &str) -> Result<Host, &'static str> {
    if let Some(inner) = typed.strip_prefix('[') {
        let address = inner.strip_suffix(']').ok_or("has a bracket that is not closed")?;
        let address: Ipv6Addr = address.parse().map_err(|_| "has no IPv6 address in its brackets")?;
        return Ok(Host::Ip(address.into()));
    }
    if typed.is_empty() {
        return Err("has no host");
    }
    if typed.contains(':') {
        return Err("has an IPv6 address without brackets");
    }
    if let Ok(address) = typed.parse::<Ipv4Addr>() {
        return Ok(Host::Ip(address.into()));
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    if typed.len() > 253 || !typed.split('.').all(label) {
        return Err("has a host that is neither an address nor a name");
    }
    // Resolvers take `0` or `127.1` for addresses; a name never ends in a number (RFC 3696, section 2).
    if typed.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err("has an IPv4 address that is not complete");
    }
    Ok(Host::Name(typed.into()))
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host: Host::Ip(IpAddr::V6(address)), port } => write!(f, "tcp:[{address}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl FromStr for Incoming {
    type Err = ValueError;

    fn from_str(typed: &str) -> Result<Self, ValueError> {
        if typed == "defer" { Ok(Self::Defer) } else { typed.parse().map(Self::At) }
    }
}

impl fmt::Display for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(endpoint) => endpoint.fmt(f),
            Self::Defer => f.write_str("defer"),
        }
    }
}

written_as_text!(Endpoint Incoming);

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(typed: &str) -> Endpoint {
        typed.parse().unwrap()
    }

    #[test]
    fn endpoints_print_as_they_are_typed() {
        for typed in
            ["tcp:127.0.0.1:4444", "tcp:[::1]:65535", "tcp:host-1.example.org:0", "unix:/run/a:b", "unix:rel"]
        {
            assert_eq!(endpoint(typed).to_string(), typed);
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
            "tcp:[::1:4444",
            "tcp:[]:1",
            "tcp:[127.0.0.1]:1",
            "tcp:[fe80::1%eth0]:1",
            "tcp:0:4444",
            "tcp:127.1:4444",
            "tcp:256.0.0.1:1",
            "tcp:a..b:1",
            "tcp:-a:1",
            "tcp:hö:1",
            "tcp:a b:1",
            "tcp:a:1,to=9",
            "unix:",
            "fd:3",
            "exec:cat",
            "127.0.0.1:4444",
            "TCP:a:1",
        ] {
            assert!(typed.parse::<Endpoint>().is_err(), "{typed:?}");
        }
    }

    #[test]
    fn only_what_this_host_alone_can_reach_is_loopback() {
        for typed in
            ["tcp:127.9.9.9:1", "tcp:[::1]:1", "tcp:[::ffff:127.0.0.1]:1", "tcp:LocalHost:1", "unix:/run/a"]
        {
            assert!(endpoint(typed).is_loopback(), "{typed}");
        }
        for typed in [
            "tcp:0.0.0.0:1",
            "tcp:[::]:1",
            "tcp:10.0.0.1:1",
            "tcp:localhost.example.org:1",
            "tcp:128.0.0.1:1",
        ] {
            assert!(!endpoint(typed).is_loopback(), "{typed}");
        }
    }

    #[test]
    fn incoming_may_be_deferred() {
        assert_eq!("defer".parse::<Incoming>().unwrap(), Incoming::Defer);
        assert_eq!("tcp:[::1]:1".parse::<Incoming>().unwrap(), Incoming::At(endpoint("tcp:[::1]:1")));
    }
}
