//! The two hosts that a machine moves between, and the network on which its users are.
//!
//! As root, three network namespaces: the hosts have a shaped link between them for migrations; each has a bridge
//! with a tap for the machine, and a cable to the third, whose bridge joins them and where the users are. So the
//! users' switch has to learn where the machine has gone, as any switch. Else both ends are processes of this host
//! with a paced proxy between them, and nobody is on the network.

use std::{fs, io, process::Command, time::Duration};

use super::{probe, proxy::Proxy, users::Users};
use crate::rig::{BitRate, End, Link, LinkError, Namespace};

/// The users' host on the machine's network, and the machine.
const USERS: &str = "10.1.0.1/24";
pub(super) const GUEST: [u8; 4] = [10, 1, 0, 2];
/// The machine's tap in each host, and the hardware address of its card.
const TAP: &str = "tap0";
const MAC: &str = "02:00:00:00:00:12";

/// Where machines run.
#[derive(Debug)]
pub(super) enum Hosts {
    /// Namespaces.
    Apart(Apart),
    /// This host, with a proxy between two of its ports.
    Together(Proxy),
}

#[derive(Debug)]
pub(super) struct Apart {
    link: Link,
    users: Namespace,
}

impl Hosts {
    /// Namespaces where they can be had; else `notes` says why not.
    pub(super) fn make(notes: &mut Vec<String>) -> io::Result<Self> {
        match Apart::make() {
            Ok(apart) => Ok(Self::Apart(apart)),
            Err(error) => {
                notes.push(format!(
                    "Users have no network to the machine, so that only the guest itself says what it felt: {error}."
                ));
                Proxy::start().map(Self::Together)
            }
        }
    }

    /// What is between the hosts, as a sentence.
    pub(super) fn description(&self) -> &'static str {
        match self {
            Self::Apart(_) => "a shaped link between two network namespaces",
            Self::Together(_) => "a paced proxy between two ports of this host",
        }
    }

    /// From here on the link carries so many bytes each second.
    pub(super) fn carry(&self, bytes: u64) -> Result<(), LinkError> {
        match self {
            Self::Apart(apart) => apart.link.carries(BitRate::of_bytes(bytes)),
            Self::Together(proxy) => {
                proxy.carry(bytes);
                Ok(())
            }
        }
    }

    /// `command`, in the host at that end.
    pub(super) fn at(&self, end: End, command: Command) -> Command {
        match self {
            Self::Apart(apart) => apart.link.at(end, &command),
            Self::Together(_) => command,
        }
    }

    /// The tap and the hardware address of the machine's card, if there is a network.
    pub(super) fn card(&self) -> Option<(&'static str, &'static str)> {
        matches!(self, Self::Apart(_)).then_some((TAP, MAC))
    }

    /// Where a destination listens.
    pub(super) fn address(&self) -> &'static str {
        match self {
            Self::Apart(_) => Link::DESTINATION,
            Self::Together(_) => LOOPBACK,
        }
    }

    /// Where a source has to go to reach the destination that listens at `port`.
    pub(super) fn uri(&self, port: &str) -> String {
        let port = match self {
            Self::Apart(_) => port.to_owned(),
            Self::Together(proxy) => proxy.lead_to(port).to_string(),
        };
        format!("tcp:{}:{port}", self.address())
    }

    /// Bytes that have gone from the source to the destination, ever.
    pub(super) fn bytes_sent(&self) -> u64 {
        match self {
            Self::Apart(apart) => sent(apart.link.end(End::Source)).unwrap_or(0),
            Self::Together(proxy) => proxy.bytes(),
        }
    }

    /// Has users use the machine from here on.
    pub(super) fn users(&self) -> io::Result<Option<Users>> {
        match self {
            Self::Apart(apart) => Users::start(&apart.users, GUEST.into()).map(Some),
            Self::Together(_) => Ok(None),
        }
    }

    /// What of the link's bytes can be a migration's: the rest is headers, since a full frame of 1514 bytes has 1448 of
    /// TCP with timestamps (RFC 7323). The proxy counts no headers.
    pub(super) fn payload_share(&self) -> f64 {
        match self {
            Self::Apart(_) => 1448.0 / 1514.0,
            Self::Together(_) => 1.0,
        }
    }

    /// Bytes each second over one connection, as the link is now.
    pub(super) fn probe(&self) -> io::Result<f64> {
        match self {
            Self::Apart(apart) => {
                let pair = [End::Source, End::Destination].map(|end| Some(apart.link.end(end)));
                probe::copy(pair, self.address(), |port| port, PROBE)
            }
            Self::Together(proxy) => {
                probe::copy([None, None], self.address(), |port| proxy.lead_to(&port.to_string()), PROBE)
            }
        }
    }
}

impl Apart {
    fn make() -> Result<Self, LinkError> {
        let apart = Self { link: Link::make()?, users: Namespace::make()? };
        apart.users.bridge()?;
        apart.users.ip(&["address", "add", USERS, "dev", BRIDGE])?;
        let there = apart.users.process_id().to_string();
        for (end, name) in [(End::Source, "source"), (End::Destination, "destination")] {
            let host = apart.link.end(end);
            host.bridge()?;
            host.ip(&["link", "add", UPLINK, "type", "veth", "peer", "name", name, "netns", &there])?;
            host.ip(&["tuntap", "add", "dev", TAP, "mode", "tap", "vnet_hdr"])?;
            host.join(UPLINK)?;
            host.join(TAP)?;
            apart.users.join(name)?;
        }
        // So fast that nothing is held back: whether it can be shaped at all.
        apart.link.carries(BitRate::of_bytes(50_000_000_000))?;
        Ok(apart)
    }
}

const LOOPBACK: &str = "127.0.0.1";
/// The bridge in each namespace, and the hosts' cable to the users' one.
const BRIDGE: &str = "br0";
const UPLINK: &str = "up0";
/// How long the link is tried.
const PROBE: Duration = Duration::from_millis(700);

impl Namespace {
    /// Makes a bridge there, which forwards from the beginning.
    fn bridge(&self) -> Result<(), LinkError> {
        let kind = ["type", "bridge", "stp_state", "0", "forward_delay", "0", "mcast_snooping", "0"];
        self.ip(&[&["link", "add", BRIDGE][..], &kind].concat())?;
        self.ip(&["link", "set", BRIDGE, "up"])
    }

    fn join(&self, card: &str) -> Result<(), LinkError> {
        self.ip(&["link", "set", card, "master", BRIDGE, "up"])
    }
}

/// Bytes that the link's card there has sent (the ninth number of its line; proc_pid_net_dev(5)).
fn sent(namespace: &Namespace) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{}/net/dev", namespace.process_id())).ok()?;
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(Link::CARD)?.strip_prefix(':'))?;
    line.split_ascii_whitespace().nth(8)?.parse().ok()
}
