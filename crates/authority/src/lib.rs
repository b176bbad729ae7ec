//! A certificate authority in a directory.
//!
//! Keys are ECDSA on P-256. What is issued to a host is a directory with the files that `transport` and QEMU look for, ready for use
//! on that host. The authority's own directory holds `ca-cert.pem`, which everyone may have, `ca-key.pem`, which nobody else may, and,
//! once something was revoked, `ca-crl.pem`, which every host needs then.

mod error;
mod files;
mod revocation;

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue,
    ExtendedKeyUsagePurpose as ExtendedUse, IsCa, Issuer, KeyPair, KeyUsagePurpose as Use, SanType,
    SerialNumber,
};
use time::{Duration, OffsetDateTime};
use x509_cert::{Certificate, der::DecodePem};

pub use error::AuthorityError;

use files::{CA_CERTIFICATE, CA_KEY, keep_private, keep_public, read};

/// How long an authority is valid, in days.
const AUTHORITY_DAYS: i64 = 3653;
/// How long what it issues is valid, in days, unless told otherwise.
pub const DAYS: u32 = 365;
/// How far certificates reach back, so that a clock that is a little behind accepts them.
const LEEWAY: Duration = Duration::hours(1);

/// An authority that can issue.
#[derive(Debug)]
pub struct Authority {
    directory: PathBuf,
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// What is wanted of a certificate.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Request {
    /// Names of the host: the first is the subject too. Host names, IP addresses, or URIs (anything with `://`).
    pub names: Vec<String>,
    /// For how many days from now it is valid; what is not above 0 is valid no more.
    pub days: i64,
    /// How many days from now it begins to be valid.
    pub from_day: i64,
    /// Whether the host may be a destination.
    pub server: bool,
    /// Whether it may be a source.
    pub client: bool,
}

impl Request {
    /// For a host with `names`, as a source and as a destination.
    #[must_use]
    pub fn new<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Self {
        let names = names.into_iter().map(Into::into).collect();
        Self { names, days: DAYS.into(), from_day: 0, server: true, client: true }
    }
}

impl Authority {
    /// Makes an authority called `name` in `directory`, which is made if it is missing.
    ///
    /// # Errors
    /// There is one already, the directory is another user's, or the files cannot be written.
    pub fn init(directory: &Path, name: &str) -> Result<Self, AuthorityError> {
        files::make(directory)?;
        for file in [CA_CERTIFICATE, CA_KEY] {
            let path = directory.join(file);
            if path.exists() {
                return Err(AuthorityError::Exists { path });
            }
        }
        let key = KeyPair::generate()?;
        let params = authority_params(name)?;
        let certificate = params.self_signed(&key)?.pem();
        // The key last: where there is one, there is an authority.
        keep_public(&directory.join(CA_CERTIFICATE), &certificate)?;
        keep_private(&directory.join(CA_KEY), &key.serialize_pem())?;
        Ok(Self { directory: directory.into(), certificate, issuer: Issuer::new(params, key) })
    }

    /// The authority in `directory`.
    ///
    /// # Errors
    /// There is none, it was not made by [`Self::init`], or the directory is another user's.
    pub fn open(directory: &Path) -> Result<Self, AuthorityError> {
        files::refuse_of_others(directory)?;
        let certificate = read(&directory.join(CA_CERTIFICATE))?;
        let key_path = directory.join(CA_KEY);
        let key = KeyPair::from_pem(&read(&key_path)?)
            .map_err(|error| AuthorityError::Foreign { path: key_path, reason: error.to_string() })?;
        let path = directory.join(CA_CERTIFICATE);
        let foreign = |reason: String| AuthorityError::Foreign { path: path.clone(), reason };
        let read = Certificate::from_pem(&certificate).map_err(|error| foreign(error.to_string()))?;
        let subject = read.tbs_certificate.subject.to_string();
        let name = subject.strip_prefix("CN=").filter(|name| !name.contains(['=', '\\', ',', '+']));
        let name = name.ok_or_else(|| foreign(format!("its subject is '{subject}', not a name alone")))?;
        let issuer = Issuer::new(authority_params(name)?, key);
        Ok(Self { directory: directory.into(), certificate, issuer })
    }

    /// Makes the directory that a host needs: the authority's certificate, what it revoked, and a certificate and key for each side of
    /// a migration. Where a key is there already, and was not taken back, it is kept, and the certificate alone replaced, at once: that renews it, and
    /// may be done while it is used.
    ///
    /// # Errors
    /// A name cannot be in a certificate, the directory is another user's, or the files cannot be written.
    pub fn issue(&self, directory: &Path, request: &Request) -> Result<(), AuthorityError> {
        let mut params = host_params(request)?;
        // What is revoked meanwhile comes before or after it, and so does another `issue` to the same host.
        let _lock = files::lock(&self.directory)?;
        files::make(directory)?;
        keep_public(&directory.join(CA_CERTIFICATE), &self.certificate)?;
        self.copy_revoked_to(directory)?;
        for (side, wanted, usage) in [
            ("server", request.server, ExtendedUse::ServerAuth),
            ("client", request.client, ExtendedUse::ClientAuth),
        ] {
            if !wanted {
                continue;
            }
            params.extended_key_usages = vec![usage];
            let serial = serial();
            params.serial_number = Some(serial.clone());
            let key_path = directory.join(format!("{side}-key.pem"));
            let key = self.key_at(&key_path)?;
            let certificate = params.signed_by(&key, &self.issuer)?.pem();
            // Before it can be used: what is not noted cannot be taken back.
            self.note(&serial.to_bytes(), key.public_key_raw())?;
            keep_public(&directory.join(format!("{side}-cert.pem")), &certificate)?;
        }
        Ok(())
    }

    /// The key that is there, unless it must not be used any more; a new one otherwise.
    fn key_at(&self, path: &Path) -> Result<KeyPair, AuthorityError> {
        if path.exists() {
            let key = KeyPair::from_pem(&read(path)?);
            let key = key
                .map_err(|error| AuthorityError::Foreign { path: path.into(), reason: error.to_string() })?;
            if !self.is_taken_back(key.public_key_raw())? {
                return Ok(key);
            }
        }
        let key = KeyPair::generate()?;
        keep_private(path, &key.serialize_pem())?;
        Ok(key)
    }
}

fn authority_params(name: &str) -> Result<CertificateParams, AuthorityError> {
    if name.is_empty() || name.contains(|letter: char| letter.is_control() || "=\\,+\"<>;#".contains(letter))
    {
        return Err(AuthorityError::Name { name: name.into() });
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![Use::KeyCertSign, Use::CrlSign];
    params.serial_number = Some(serial());
    (params.not_before, params.not_after) = span(0, AUTHORITY_DAYS);
    Ok(params)
}

fn host_params(request: &Request) -> Result<CertificateParams, AuthorityError> {
    let Some(first) = request.names.first() else { return Err(AuthorityError::NoName) };
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(first);
    params.subject_alt_names =
        request.names.iter().map(|name| alternative_name(name)).collect::<Result<_, _>>()?;
    params.key_usages = vec![Use::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    (params.not_before, params.not_after) = span(request.from_day, request.days);
    Ok(params)
}

fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, DnValue::Utf8String(name.into()));
    subject
}

fn alternative_name(name: &str) -> Result<SanType, AuthorityError> {
    let bad = || AuthorityError::Name { name: name.into() };
    if let Ok(address) = name.parse() {
        return Ok(SanType::IpAddress(address));
    }
    let is_uri = name.contains("://");
    let is_allowed = |letter: char| letter.is_ascii_alphanumeric() || "-._".contains(letter);
    if name.is_empty() || (!is_uri && !name.chars().all(is_allowed)) {
        return Err(bad());
    }
    let text = name.try_into().map_err(|_| bad())?;
    Ok(if is_uri { SanType::URI(text) } else { SanType::DnsName(text) })
}

/// From `first` to `last` days from now; what begins now does so a little earlier.
fn span(first: i64, last: i64) -> (OffsetDateTime, OffsetDateTime) {
    let now = OffsetDateTime::now_utc();
    // What lies before the first day began a year earlier.
    let begin =
        if first >= last { now + Duration::days(last - 365) } else { now + Duration::days(first) - LEEWAY };
    (begin, now + Duration::days(last))
}

/// A number that no other certificate has: 122 random bits, positive.
fn serial() -> SerialNumber {
    let mut bytes = uuid::Uuid::new_v4().into_bytes();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}
