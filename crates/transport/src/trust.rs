use std::{
    io,
    net::{Ipv6Addr, SocketAddr, SocketAddrV6, ToSocketAddrs as _},
    time::Instant,
};

use address::Address;

use crate::{Tls, TransportError, zone};

/// Whom connections are made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Who is on this host, and nobody else. Connections are not encrypted.
    ThisHost,
    /// Anyone, and everyone between: the user said to know the risk. Connections are not encrypted.
    Anyone,
    /// Who shows the right certificate, wherever it is. Connections are encrypted.
    Certified(Tls),
}

/// The socket addresses behind the TCP address `address`, all of which may be used with `trust`.
///
/// The check is on what the name resolves to, not on the name.
pub(crate) fn resolve(
    address: &Address,
    host: &str,
    port: u16,
    trust: &Trust,
) -> Result<Vec<SocketAddr>, TransportError> {
    let found = look_up(host, port)
        .map_err(|source| TransportError::Resolve { address: address.to_string(), source })?;
    if *trust == Trust::ThisHost && found.iter().any(|found| !found.ip().to_canonical().is_loopback()) {
        return Err(TransportError::NotLoopback { address: address.to_string() });
    }
    Ok(found)
}

fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Some((address, zone)) = host.split_once('%') {
        let address: Ipv6Addr = address
            .parse()
            .map_err(|_| io::Error::other("an interface stands behind an IPv6 address only"))?;
        return Ok(vec![SocketAddrV6::new(address, port, 0, zone::index(zone)?).into()]);
    }
    // Name servers know the one name, the file of hosts only the other.
    let host = match host.strip_suffix('.') {
        Some(name) if name.eq_ignore_ascii_case("localhost") => name,
        _ => host,
    };
    Ok((host, port).to_socket_addrs()?.collect())
}

/// Until when one of `left` addresses is tried that are left of a name: where nobody answers there is time for the others.
pub(crate) fn share_of(deadline: Instant, left: usize) -> Instant {
    let now = Instant::now();
    now + deadline.saturating_duration_since(now) / u32::try_from(left.max(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_address_of_a_name_has_its_share_of_the_time_and_the_last_all_that_is_left() {
        let deadline = Instant::now() + Duration::from_secs(9000);
        for (left, at_most) in [(3, 3000), (2, 4500), (1, 9000), (0, 9000)] {
            let share = share_of(deadline, left).saturating_duration_since(Instant::now());
            assert!(
                share <= Duration::from_secs(at_most) && share > Duration::from_secs(at_most - 1000),
                "{left}: {share:?}"
            );
        }
        assert!(share_of(Instant::now(), 2) <= Instant::now(), "there is none left");
    }
}
