//! Interfaces behind link-local addresses: by name where people are, by number where the kernel is.

use std::{io, net::SocketAddr};

use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};

/// The number of the interface `zone`, which may be a number already.
pub(crate) fn index(zone: &str) -> io::Result<u32> {
    if let Ok(index) = zone.parse() {
        return Ok(index);
    }
    let found = any_socket().and_then(|socket| Ok(netdevice::name_to_index(socket, zone)?));
    found.map_err(|error| io::Error::new(error.kind(), format!("there is no interface '{zone}' here")))
}

/// The host of a socket's address, with the interface where it is link-local.
pub(crate) fn host(address: SocketAddr) -> String {
    let ip = address.ip();
    match address {
        SocketAddr::V6(address) if address.scope_id() != 0 => {
            let index = address.scope_id();
            let name = any_socket().and_then(|socket| Ok(netdevice::index_to_name(socket, index)?));
            // Where it is gone, its number is what there is.
            format!("{ip}%{}", name.unwrap_or_else(|_| index.to_string()))
        }
        _ => ip.to_string(),
    }
}

/// The kernel wants some socket to be asked by.
fn any_socket() -> io::Result<std::os::fd::OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, SocketAddrV6};

    use super::*;

    #[test]
    fn an_interface_has_its_name_where_people_are_and_its_number_where_the_kernel_is() {
        let lo = index("lo").unwrap();
        assert_eq!((index("7").unwrap(), index(&lo.to_string()).unwrap()), (7, lo));
        let link_local: Ipv6Addr = "fe80::1".parse().unwrap();
        assert_eq!(host(SocketAddrV6::new(link_local, 1, 0, lo).into()), "fe80::1%lo");
        assert_eq!(
            host(SocketAddrV6::new(link_local, 1, 0, u32::MAX).into()),
            format!("fe80::1%{}", u32::MAX)
        );
        assert_eq!(host("[::1]:1".parse().unwrap()), "::1");
        let error = index("none-such").unwrap_err().to_string();
        assert!(error.contains("no interface 'none-such'"), "{error}");
    }
}
