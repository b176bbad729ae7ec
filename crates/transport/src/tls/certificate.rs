use std::{
    fmt,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use x509_cert::{
    Certificate as X509,
    der::{Decode, oid::ObjectIdentifier},
    ext::pkix::{BasicConstraints, ExtendedKeyUsage, SubjectAltName, name::GeneralName},
};

/// `id-kp-serverAuth` (RFC 5280, 4.2.1.12).
const SERVER_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1");
/// `id-kp-clientAuth`.
const CLIENT_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.2");
/// `anyExtendedKeyUsage`.
const ANY: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37.0");

/// What a certificate may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A TLS server: the destination of a migration.
    Server,
    /// A TLS client: the source.
    Client,
}

/// What a certificate says. Nothing of it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Certificate {
    /// The subject's name, most specific part first (RFC 4514), as `CN=host-a,O=Example`.
    pub subject: String,
    /// The issuer's, in the same way.
    pub issuer: String,
    /// Alternative names, each with what it is before it: `dns:`, `uri:` or `ip:`.
    pub names: Vec<String>,
    /// When it begins to be valid.
    pub not_before: SystemTime,
    /// When it is not valid any more.
    pub not_after: SystemTime,
    /// Whether it may sign others.
    pub is_ca: bool,
    /// What it says that it may be used for; `None` for anything.
    purposes: Option<Vec<ObjectIdentifier>>,
}

impl Certificate {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    /// It is none; the text says why.
    pub fn read(der: &[u8]) -> Result<Self, String> {
        Self::decode(der).map_err(|error| error.to_string())
    }

    fn decode(der: &[u8]) -> x509_cert::der::Result<Self> {
        let certificate = X509::from_der(der)?.tbs_certificate;
        let names = certificate.get::<SubjectAltName>()?.map(|(_, names)| names.0).unwrap_or_default();
        let constraints = certificate.get::<BasicConstraints>()?;
        let purposes = certificate.get::<ExtendedKeyUsage>()?;
        Ok(Self {
            subject: certificate.subject.to_string(),
            issuer: certificate.issuer.to_string(),
            names: names.iter().filter_map(name).collect(),
            not_before: certificate.validity.not_before.to_system_time(),
            not_after: certificate.validity.not_after.to_system_time(),
            is_ca: constraints.is_some_and(|(_, constraints)| constraints.ca),
            purposes: purposes.map(|(_, purposes)| purposes.0),
        })
    }

    /// Whether it may be used for `purpose`.
    #[must_use]
    pub fn allows(&self, purpose: Purpose) -> bool {
        let wanted = match purpose {
            Purpose::Server => SERVER_AUTH,
            Purpose::Client => CLIENT_AUTH,
        };
        self.purposes.as_ref().is_none_or(|allowed| allowed.iter().any(|one| *one == wanted || *one == ANY))
    }

    /// When it begins to be valid, as RFC 3339 has it.
    #[must_use]
    pub fn begins(&self) -> String {
        text_of(self.not_before)
    }

    /// When it is not valid any more, as RFC 3339 has it.
    #[must_use]
    pub fn ends(&self) -> String {
        text_of(self.not_after)
    }

    /// How long it is still valid at `now`; `None` when it is not any more.
    #[must_use]
    pub fn remaining(&self, now: SystemTime) -> Option<Duration> {
        self.not_after.duration_since(now).ok()
    }
}

/// The subject, and every other name.
impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = if self.subject.is_empty() { "no subject" } else { &self.subject };
        write!(f, "{subject}")?;
        if !self.names.is_empty() {
            write!(f, " ({})", self.names.join(", "))?;
        }
        Ok(())
    }
}

fn name(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(format!("dns:{}", name.as_str())),
        GeneralName::UniformResourceIdentifier(name) => Some(format!("uri:{}", name.as_str())),
        GeneralName::IpAddress(bytes) => address(bytes.as_bytes()).map(|address| format!("ip:{address}")),
        _ => None,
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let v6 = <[u8; 16]>::try_from(bytes).map(IpAddr::from);
    v4.or(v6).ok()
}

/// A time as RFC 3339 has it, to the second.
pub(super) fn text_of(time: SystemTime) -> String {
    let time = jiff::Timestamp::try_from(time).and_then(|time| time.round(jiff::Unit::Second));
    time.map_or_else(|_| "a time that no calendar has".into(), |time| time.to_string())
}
