//! Hosts, by address or by name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Checks that `host` is an IPv4 or IPv6 address, or a name that a resolver may know.
///
/// # Errors
/// What is wrong with it, to follow "the address …".
pub(crate) fn check(host: &str) -> Result<(), &'static str> {
    if host.is_empty() {
        return Err("has no host (0.0.0.0 and [::] mean all of this one's addresses)");
    }
    if host.parse::<Ipv6Addr>().is_ok_and(|address| address.is_unicast_link_local()) {
        return Err("has a link-local IPv6 address without its interface (fe80::1%eth0)");
    }
    if is_ipv6(host) || host.parse::<Ipv4Addr>().is_ok() {
        return Ok(());
    }
    // The dot says that the name is complete (RFC 1034, section 3.1).
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.len() > 253 || !host.split('.').all(is_label) {
        return Err("has a host that is neither an address nor a name");
    }
    // Resolvers take `0` or `127.1` for addresses; a name never ends in a number (RFC 3696, section 2).
    if host.rsplit('.').next().is_some_and(is_number) {
        return Err("has an IPv4 address that is not complete");
    }
    Ok(())
}

/// An address, which may have a zone where it is link-local: `fe80::1%eth0` (RFC 4007, section 11).
pub(crate) fn is_ipv6(host: &str) -> bool {
    match host.split_once('%') {
        None => host.parse::<Ipv6Addr>().is_ok(),
        Some((address, zone)) => {
            address.parse::<Ipv6Addr>().is_ok_and(|address| address.is_unicast_link_local()) && is_zone(zone)
        }
    }
}

pub(crate) fn is_loopback(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    host.parse::<IpAddr>()
        .map_or(name.eq_ignore_ascii_case("localhost"), |address| address.to_canonical().is_loopback())
}

/// The name of an interface (Linux, `dev_valid_name`), or its number.
fn is_zone(zone: &str) -> bool {
    (1..=15).contains(&zone.len())
        && zone.bytes().all(|byte| byte.is_ascii_graphic() && !b"/:[]%".contains(&byte))
}

/// Resolvers take numbers of base 16 too.
fn is_number(label: &str) -> bool {
    let hex = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    hex.map_or_else(
        || label.bytes().all(|byte| byte.is_ascii_digit()),
        |digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
    )
}

/// One part of a name (RFC 1123, section 2.1; `_` stands in many names all the same).
fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && !label.starts_with('-')
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}
