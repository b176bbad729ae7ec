use std::{fmt, str::FromStr};

use super::Certificate;

/// Which sources a destination lets in, by the names in their certificates.
///
/// Written as a list, separated by `;` or by lines. Each entry is one of
///
/// * `dns:host-a.example.org`, `uri:spiffe://example.org/node/a`, `ip:192.0.2.7`: an alternative name of the certificate,
/// * `CN=host-a,O=Example` (anything with a `=`): the whole subject, as `whimbrel ca show` prints it,
/// * `host-a` (anything else): the same as `dns:host-a`, or as `ip:` where it is an address,
/// * `*`: whoever has a certificate of the CA.
///
/// A `*` within an entry stands for any characters, in a DNS name for any but a dot. DNS names are compared without regard to case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authz {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Everyone,
    Dns(String),
    /// With what stands before names of its kind in [`Certificate::names`].
    Other(String),
    Subject(String),
}

/// Why a list of sources cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthzError {
    /// There is nobody in it.
    #[error(
        "The list of sources that may come is empty: give names of their certificates, as \
         dns:host-a.example.org, or * for every certificate of the CA"
    )]
    Empty,
    /// An entry has no name.
    #[error(
        "'{entry}' in the list of sources names nothing: write dns:NAME, uri:URI, ip:ADDRESS, a subject or *"
    )]
    Nothing {
        /// The entry as it was given.
        entry: String,
    },
}

impl Authz {
    /// Whether the source that shows `certificate` may come.
    #[must_use]
    pub fn admits(&self, certificate: &Certificate) -> bool {
        self.entries.iter().any(|entry| entry.admits(certificate))
    }

    /// Whether everyone with a certificate of the CA may come.
    #[must_use]
    pub fn admits_everyone(&self) -> bool {
        self.entries.contains(&Entry::Everyone)
    }
}

impl FromStr for Authz {
    type Err = AuthzError;

    fn from_str(list: &str) -> Result<Self, AuthzError> {
        let entries = list.split([';', '\n']).map(str::trim).filter(|entry| !entry.is_empty());
        let entries: Vec<_> = entries.map(Entry::parse).collect::<Result<_, _>>()?;
        if entries.is_empty() { Err(AuthzError::Empty) } else { Ok(Self { entries }) }
    }
}

impl fmt::Display for Authz {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, entry) in self.entries.iter().enumerate() {
            let separator = if index == 0 { "" } else { ";" };
            match entry {
                Entry::Everyone => write!(f, "{separator}*")?,
                Entry::Dns(name) => write!(f, "{separator}dns:{name}")?,
                Entry::Other(name) | Entry::Subject(name) => write!(f, "{separator}{name}")?,
            }
        }
        Ok(())
    }
}

impl Entry {
    fn parse(entry: &str) -> Result<Self, AuthzError> {
        let nothing = || AuthzError::Nothing { entry: entry.to_owned() };
        if entry == "*" {
            return Ok(Self::Everyone);
        }
        let parsed = match entry.split_once(':') {
            Some(("dns", name)) => Self::Dns(name.to_ascii_lowercase()),
            Some(("uri" | "ip", "")) => return Err(nothing()),
            Some(("uri", _)) => Self::Other(entry.to_owned()),
            Some(("ip", name)) => Self::Other(ip(name).unwrap_or_else(|| entry.to_owned())),
            _ if entry.contains("://") => Self::Other(format!("uri:{entry}")),
            _ if entry.contains('=') => Self::Subject(entry.to_owned()),
            _ => ip(entry).map_or_else(|| Self::Dns(entry.to_ascii_lowercase()), Self::Other),
        };
        if parsed == Self::Dns(String::new()) { Err(nothing()) } else { Ok(parsed) }
    }

    fn admits(&self, certificate: &Certificate) -> bool {
        match self {
            Self::Everyone => true,
            Self::Dns(wanted) => {
                let names = certificate.names.iter().filter_map(|name| name.strip_prefix("dns:"));
                names.map(str::to_ascii_lowercase).any(|name| matches(wanted, &name, |byte| byte != b'.'))
            }
            Self::Other(wanted) => certificate.names.iter().any(|name| matches(wanted, name, |_| true)),
            // Not from one part of a name into the next.
            Self::Subject(wanted) => matches(wanted, &certificate.subject, |byte| !br",+\".contains(&byte)),
        }
    }
}

/// An address as certificates' are written here.
fn ip(text: &str) -> Option<String> {
    text.parse::<std::net::IpAddr>().ok().map(|address| format!("ip:{address}"))
}

/// Whether `text` is `pattern`, each `*` of which stands for bytes that are `any`. Takes time in the order of their product.
fn matches(pattern: &str, text: &str, any: impl Fn(u8) -> bool) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where the last star stands, and how far what it stands for goes.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if p < pattern.len() && pattern[p] == b'*' {
            star = Some((p, t));
            p += 1;
        } else if p < pattern.len() && pattern[p] == text[t] {
            (p, t) = (p + 1, t + 1);
        } else if let Some((at, until)) = star.filter(|&(_, until)| any(text[until])) {
            star = Some((at, until + 1));
            (p, t) = (at + 1, until + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn certificate(subject: &str, names: &[&str]) -> Certificate {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut certificate = Certificate::read(params.self_signed(&key).unwrap().der()).unwrap();
        certificate.subject = subject.into();
        certificate.names = names.iter().map(|&name| name.into()).collect();
        certificate.not_before = SystemTime::UNIX_EPOCH;
        certificate
    }

    fn admits(list: &str, subject: &str, names: &[&str]) -> bool {
        list.parse::<Authz>().unwrap().admits(&certificate(subject, names))
    }

    #[test]
    fn a_source_is_let_in_by_any_of_its_names_and_by_no_other() {
        let (subject, names) = ("CN=a,O=Example", ["dns:A.example", "uri:spiffe://x/a", "ip:192.0.2.7"]);
        for list in [
            "a.example",
            "dns:a.EXAMPLE",
            "*.example",
            "uri:spiffe://x/a",
            "uri:spiffe://x/*",
            "ip:192.0.2.7",
            "192.0.2.7",
            "CN=a,O=Example",
            "CN=*,O=Example",
            "b;a.example",
            "b\na.example",
            "*",
        ] {
            assert!(admits(list, subject, &names), "{list}");
        }
        for list in [
            "b",
            "example",
            "dns:a",
            "*.e",
            "a.exampl",
            "a.example2",
            "uri:spiffe://x",
            "uri:spiffe://x/b",
            "a",
            "CN=a",
            "spiffe://x/b",
            "*.example.org",
            "ip:192.0.2.8",
        ] {
            assert!(!admits(list, subject, &names), "{list}");
        }
    }

    #[test]
    fn a_star_in_a_dns_name_does_not_reach_over_a_dot() {
        assert!(admits("*.example.org", "", &["dns:a.example.org"]));
        assert!(!admits("*.example.org", "", &["dns:a.b.example.org"]));
    }

    #[test]
    fn a_star_in_a_subject_does_not_reach_into_its_next_part() {
        assert!(admits("CN=*,O=Example", "CN=a,O=Example", &[]));
        assert!(!admits("CN=*,O=Example", "CN=a\\,O=Example", &[]));
        assert!(!admits("CN=*,O=Example", "CN=a,O=Other,O=Example", &[]));
    }

    #[test]
    fn addresses_and_uris_are_recognised_however_they_are_written() {
        assert!(admits("2001:DB8::1", "", &["ip:2001:db8::1"]));
        assert!(admits("ip:2001:DB8:0::1", "", &["ip:2001:db8::1"]));
        assert!(admits("spiffe://x/a", "", &["uri:spiffe://x/a"]));
    }

    #[test]
    fn a_name_of_one_kind_is_none_of_another() {
        assert!(!admits("dns:192.0.2.7", "", &["ip:192.0.2.7"]));
        assert!(!admits("host-a", "CN=host-a", &[]));
        assert!(!admits("uri:dns:a", "", &["dns:a"]));
    }

    #[test]
    fn a_list_with_nobody_in_it_is_refused() {
        for list in ["", " ; \n "] {
            assert_eq!(list.parse::<Authz>(), Err(AuthzError::Empty));
        }
        for list in ["dns:", "uri:", "a;ip:"] {
            assert!(matches!(list.parse::<Authz>(), Err(AuthzError::Nothing { .. })), "{list}");
        }
    }

    #[test]
    fn a_list_is_read_as_it_is_written() {
        let list = "dns:a.example;uri:spiffe://x/*;CN=b,O=Example;ip:192.0.2.7;*";
        assert_eq!(list.parse::<Authz>().unwrap().to_string(), list);
    }
}
