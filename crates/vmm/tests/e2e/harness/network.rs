use std::process::{Child, Command, Output, Stdio};

use super::{holds, skipped};

/// A network of its own for a test: a bridge with an address, and a tap for each machine. It lives in a network namespace that
/// goes with the process that holds it.
pub(crate) struct Network {
    holder: Child,
    taps: Vec<&'static str>,
}

/// The host's address on the bridge.
const HOST: &str = "10.77.0.1/24";

impl Network {
    /// A network with these taps, or none and a loud word without the right to make one.
    pub(crate) fn new(taps: &[&'static str]) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skipped("only root can make a network");
            return None;
        }
        let mut holder = Command::new("setpriv");
        holder.args(["--pdeathsig", "KILL", "--", "unshare", "--net", "sleep", "infinity"]);
        let holder = holder.stdin(Stdio::null()).spawn().unwrap();
        let network = Self { holder, taps: taps.to_vec() };
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let path = format!("/proc/{}/ns/net", network.holder.id());
        holds("the network namespace is there", || std::fs::read_link(&path).is_ok_and(|there| there != own));
        if let Err(why) = network.set_up() {
            skipped(&format!("a network cannot be made here: {why}"));
            return None;
        }
        Some(network)
    }

    /// What puts a program into the network, in front of it.
    pub(crate) fn prefix(&self) -> Vec<String> {
        let holder = self.holder.id().to_string();
        ["nsenter", "--target", &holder, "--net"].map(str::to_owned).to_vec()
    }

    /// Whether `address` answers a ping within a second.
    pub(crate) fn pings(&self, address: &str) -> bool {
        self.run(&["ping", "-n", "-c", "1", "-W", "1", address]).status.success()
    }

    /// Sends so many pings to `address`, five a second. Whether all are answered, within half a minute.
    pub(crate) fn all_are_answered(&self, address: &str, count: u32) -> bool {
        let count = count.to_string();
        let output = self.run(&["ping", "-n", "-i", "0.2", "-W", "30", "-c", &count, address]);
        String::from_utf8_lossy(&output.stdout).contains(&format!(" {count} received"))
    }

    /// Pings that were sent from the host's address until now.
    pub(crate) fn pings_sent(&self) -> u64 {
        let shown = self.run(&["cat", "/proc/net/snmp"]);
        let table = String::from_utf8_lossy(&shown.stdout).into_owned();
        let mut lines = table.lines().filter(|line| line.starts_with("Icmp:"));
        let (names, counts) = (lines.next().unwrap().split(' '), lines.next().unwrap().split(' '));
        let (_, count) = names.zip(counts).find(|(name, _)| *name == "OutEchos").unwrap();
        count.parse().unwrap()
    }

    /// The tap behind which the bridge last saw frames from that hardware address.
    pub(crate) fn port_of(&self, mac: &str) -> Option<&'static str> {
        let shown = self.run(&["bridge", "fdb", "show", "br", "br0"]);
        let table = String::from_utf8_lossy(&shown.stdout).into_owned();
        let learnt = table.lines().find(|line| line.starts_with(mac) && !line.contains("permanent"))?;
        self.taps.iter().copied().find(|tap| learnt.split(' ').any(|word| word == *tap))
    }

    fn set_up(&self) -> Result<(), String> {
        let mut steps = vec![
            "ip link set lo up".to_owned(),
            "ip link add br0 type bridge".into(),
            format!("ip address add {HOST} dev br0"),
            "ip link set br0 up".into(),
        ];
        for tap in &self.taps {
            steps.push(format!("ip tuntap add dev {tap} mode tap"));
            steps.push(format!("ip link set {tap} master br0 up"));
        }
        for step in steps {
            let output = self.run(&step.split(' ').collect::<Vec<_>>());
            if !output.status.success() {
                return Err(format!("{step}: {}", String::from_utf8_lossy(&output.stderr).trim_end()));
            }
        }
        Ok(())
    }

    fn run(&self, words: &[&str]) -> Output {
        let prefix = self.prefix();
        Command::new(&prefix[0]).args(&prefix[1..]).args(words).stdin(Stdio::null()).output().unwrap()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Fails only when it is gone already.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
