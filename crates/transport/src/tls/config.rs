use std::{fmt, path::PathBuf, sync::Arc, time::Instant};

use parking_lot::Mutex;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
    client::{Resumption, WebPkiServerVerifier, danger::HandshakeSignatureValid},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
    version::TLS13,
};

use super::{
    Authz, Certificate, Credentials, Side, TlsError, algorithms::provider, credentials::Shown,
    exporter::SecretSink,
};
use crate::Address;

/// After how many bytes a side renews the keys that it sends with: 64 GiB, far below the about 360 GiB that AES-GCM may encrypt with
/// one key in records of 16 KiB (RFC 8446, 5.5).
const REKEY_AFTER: u64 = 64 << 30;

/// How connections are encrypted: where the certificates are, and who is trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tls {
    /// The directory of certificates and keys.
    pub directory: PathBuf,
    /// For a source: the name that the destination's certificate must have. The host that is dialled where this is `None`.
    pub hostname: Option<String>,
    /// For a destination: which sources may come.
    pub authz: Option<Authz>,
    /// After how many bytes a side renews the keys that it sends with.
    pub rekey_after: u64,
}

impl Tls {
    /// With the certificates and keys in `directory`, as QEMU or libvirt name them.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), hostname: None, authz: None, rekey_after: REKEY_AFTER }
    }
}

/// What a source needs for all connections of a migration.
#[derive(Debug)]
pub(crate) struct TlsSource {
    credentials: Credentials,
    verifier: Arc<WebPkiServerVerifier>,
    pub(super) name: ServerName<'static>,
    pub(super) rekey_after: u64,
}

/// What a destination needs. Files are read again when they have changed.
#[derive(Debug)]
pub(crate) struct TlsDestination {
    tls: Tls,
    authz: Authz,
    read: Mutex<Arc<Read>>,
    /// Held by the one thread that looks at the files.
    looking: Mutex<()>,
}

#[derive(Debug)]
struct Read {
    credentials: Credentials,
    verifier: Arc<dyn ClientCertVerifier>,
}

/// What belongs to one connection, beside its configuration.
#[derive(Debug)]
pub(super) struct OfConnection {
    pub(super) secret: Arc<SecretSink>,
    pub(super) shown: Arc<Shown>,
    /// Of this side, in the order of the pairs.
    pub(super) certificates: Vec<Certificate>,
    /// A source that was turned away though its certificate is valid.
    pub(super) turned_away: Option<Arc<Mutex<Option<Certificate>>>>,
    pub(super) rekey_after: u64,
}

impl TlsSource {
    /// Reads the files. `address` is the one that is dialled.
    pub(crate) fn load(tls: &Tls, address: &Address) -> Result<Self, TlsError> {
        let name = match (&tls.hostname, address) {
            (Some(name), _) => name.as_str(),
            // Certificates know no interfaces and no root of names.
            (None, Address::Tcp { host, .. }) => {
                let host = host.split('%').next().unwrap_or_default();
                host.strip_suffix('.').unwrap_or(host)
            }
            (None, Address::Unix(_)) => return Err(TlsError::NoName { address: address.to_string() }),
        };
        let parsed = ServerName::try_from(name.to_owned());
        let name = parsed.map_err(|_| TlsError::BadName { name: name.to_owned() })?;
        let credentials = Credentials::load(&tls.directory, Side::Source)?;
        warn(&credentials);
        let verifier = credentials.verifier_of_destinations().map_err(TlsError::Protocol)?;
        Ok(Self { credentials, verifier, name, rekey_after: tls.rekey_after })
    }

    pub(super) fn connection(&self) -> Result<(Arc<ClientConfig>, OfConnection), TlsError> {
        let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]);
        let builder = builder.map_err(|error| TlsError::Protocol(error.to_string()))?;
        let (secret, shown) = (SecretSink::new(), self.credentials.shown());
        let mut config =
            builder.with_webpki_verifier(self.verifier.clone()).with_client_cert_resolver(shown.clone());
        config.key_log = secret.clone();
        config.resumption = Resumption::disabled();
        // For records that are made here.
        config.enable_secret_extraction = true;
        let certificates = self.credentials.certificates().to_vec();
        let rekey_after = self.rekey_after;
        Ok((Arc::new(config), OfConnection { secret, shown, certificates, turned_away: None, rekey_after }))
    }
}

impl TlsDestination {
    /// Reads the files, so that what is wrong with them is known at once.
    ///
    /// # Errors
    /// It is not said who may come, or the files cannot be used.
    pub(crate) fn load(tls: &Tls) -> Result<Self, TlsError> {
        let authz = tls.authz.clone().ok_or(TlsError::NoAuthz)?;
        let read = Mutex::new(Arc::new(Read::new(tls)?));
        Ok(Self { tls: tls.clone(), authz, read, looking: Mutex::default() })
    }

    /// Gives up at `until`, if another connection waits for the files as long.
    pub(super) fn connection(&self, until: Instant) -> Result<(Arc<ServerConfig>, OfConnection), TlsError> {
        let read = self.fresh(until)?;
        let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]);
        let builder = builder.map_err(|error| TlsError::Protocol(error.to_string()))?;
        let (secret, shown) = (SecretSink::new(), read.credentials.shown());
        let turned_away = Arc::default();
        let admission = Admission {
            verifier: read.verifier.clone(),
            authz: self.authz.clone(),
            turned_away: Arc::clone(&turned_away),
        };
        let mut config =
            builder.with_client_cert_verifier(Arc::new(admission)).with_cert_resolver(shown.clone());
        config.key_log = secret.clone();
        // Nothing is resumed.
        config.send_tls13_tickets = 0;
        // For records that are made here.
        config.enable_secret_extraction = true;
        let certificates = read.credentials.certificates().to_vec();
        let rekey_after = self.tls.rekey_after;
        let of_connection =
            OfConnection { secret, shown, certificates, turned_away: Some(turned_away), rekey_after };
        Ok((Arc::new(config), of_connection))
    }

    /// What the files hold now. One connection looks at them: the others are not to hang as well if storage does.
    fn fresh(&self, until: Instant) -> Result<Arc<Read>, TlsError> {
        let _looking = self.looking.try_lock_until(until).ok_or(TlsError::FilesHang)?;
        let read = self.read.lock().clone();
        if read.credentials.are_fresh(&self.tls.directory, Side::Destination) {
            return Ok(read);
        }
        let read = Arc::new(Read::new(&self.tls)?);
        *self.read.lock() = read.clone();
        Ok(read)
    }
}

impl Read {
    fn new(tls: &Tls) -> Result<Self, TlsError> {
        let credentials = Credentials::load(&tls.directory, Side::Destination)?;
        warn(&credentials);
        let verifier = credentials.verifier_of_sources().map_err(TlsError::Protocol)?;
        Ok(Self { credentials, verifier })
    }
}

fn warn(credentials: &Credentials) {
    for warning in credentials.warnings() {
        tracing::warn!("{warning}");
    }
}

/// Lets sources in whose certificates are valid and in the list.
struct Admission {
    verifier: Arc<dyn ClientCertVerifier>,
    authz: Authz,
    turned_away: Arc<Mutex<Option<Certificate>>>,
}

impl ClientCertVerifier for Admission {
    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.verifier.verify_client_cert(certificate, rest, now)?;
        let facts = Certificate::read(certificate).map_err(|_| rustls::CertificateError::BadEncoding)?;
        if self.authz.admits(&facts) {
            return Ok(verified);
        }
        *self.turned_away.lock() = Some(facts);
        Err(rustls::CertificateError::ApplicationVerificationFailure.into())
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.verifier.root_hint_subjects()
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission").field("authz", &self.authz).finish_non_exhaustive()
    }
}
