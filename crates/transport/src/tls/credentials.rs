//! What a directory of certificates holds, checked as far as that can be done without a peer.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use rustls::{
    RootCertStore, SignatureScheme,
    client::{ResolvesClientCert, WebPkiServerVerifier, danger::ServerCertVerifier},
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::CertifiedKey,
};
use x509_cert::{crl::CertificateList, der::Decode};

use super::{
    Certificate, FileError, Purpose, Side,
    algorithms::provider,
    certificate::text_of,
    error,
    files::{self, Files, Stamp},
};

/// How long before the end of a certificate a warning is due.
const WARN_BEFORE: Duration = Duration::from_secs(14 * 24 * 3600);
/// Permissions that the file of a key must not have: all of every user, and that of the group to change it.
const EXPOSED: u32 = 0o027;

/// The certificates and keys of one side, as they are in its directory.
#[derive(Clone, Debug)]
pub struct Credentials {
    roots: Arc<RootCertStore>,
    crls: Vec<CertificateRevocationListDer<'static>>,
    /// Of which the first is shown that the other side understands.
    pairs: Vec<Arc<CertifiedKey>>,
    certificates: Vec<Certificate>,
    warnings: Vec<String>,
    stamp: Stamp,
}

impl Credentials {
    /// Reads and checks the files that `side` needs in `directory`.
    ///
    /// # Errors
    /// A file is missing or damaged, a key does not fit or can be read by others, a certificate is not valid now, is for another
    /// purpose or of another CA. Each says which file, and what to do.
    pub fn load(directory: &Path, side: Side) -> Result<Self, FileError> {
        let files = Files::find(directory, side)?;
        // First: what is replaced from here on is found to have changed.
        let stamp = files.stamp()?;
        let roots = Arc::new(load_roots(&files.ca)?);
        let now = SystemTime::now();
        let (mut pairs, mut certificates, mut warnings) = (Vec::new(), Vec::new(), Vec::new());
        let crls = match &files.crl {
            Some(path) => load_crls(path, now, &mut warnings)?,
            None => Vec::new(),
        };
        for (certificate, key) in &files.pairs {
            let (pair, facts) = load_pair(certificate, key)?;
            check_facts(certificate, &facts, side.purpose(), now)?;
            check_chain(&files, certificate, &pair, &roots, side)?;
            warnings.extend(ends_soon(certificate, &facts, now));
            pairs.push(Arc::new(pair));
            certificates.push(facts);
        }
        Ok(Self { roots, crls, pairs, certificates, warnings, stamp })
    }

    /// Whether `directory` has a certificate or a key for `side`, be it of use or not: a directory need not be for both sides.
    #[must_use]
    pub fn are_in(directory: &Path, side: Side) -> bool {
        Files::has_any(directory, side)
    }

    /// The certificates of this side.
    #[must_use]
    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    /// What is to be seen to soon: a sentence for each certificate that ends within two weeks.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Whether the files are still those that were read.
    pub(super) fn are_fresh(&self, directory: &Path, side: Side) -> bool {
        Files::find(directory, side).and_then(|files| files.stamp()).is_ok_and(|stamp| stamp == self.stamp)
    }

    /// For one connection.
    pub(super) fn shown(&self) -> Arc<Shown> {
        Arc::new(Shown { pairs: self.pairs.clone(), chosen: OnceLock::new() })
    }

    pub(super) fn verifier_of_sources(&self) -> Result<Arc<dyn ClientCertVerifier>, String> {
        let builder = WebPkiClientVerifier::builder_with_provider(self.roots.clone(), provider());
        // Names of CAs are hints only, and those of a thousand do not fit into a message.
        let builder = builder.clear_root_hint_subjects().with_crls(self.crls.clone());
        let builder = builder.allow_unknown_revocation_status().enforce_revocation_expiration();
        builder.build().map_err(|error| error.to_string())
    }

    pub(super) fn verifier_of_destinations(&self) -> Result<Arc<WebPkiServerVerifier>, String> {
        let builder = WebPkiServerVerifier::builder_with_provider(self.roots.clone(), provider());
        let builder = builder.with_crls(self.crls.clone());
        let builder = builder.allow_unknown_revocation_status().enforce_revocation_expiration();
        builder.build().map_err(|error| error.to_string())
    }
}

fn load_roots(path: &Path) -> Result<RootCertStore, FileError> {
    let format = |reason: String| FileError::Format { path: path.into(), wanted: "CA certificate", reason };
    let (bytes, _) = files::read(path)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        let certificate = certificate.map_err(|error| format(error.to_string()))?;
        roots.add(certificate).map_err(|error| format(error.to_string()))?;
    }
    if roots.is_empty() { Err(format("there is no certificate in it".into())) } else { Ok(roots) }
}

/// Lists of what was revoked. One that has ended is of no use: what was revoked since is not in it.
fn load_crls(
    path: &Path,
    now: SystemTime,
    warnings: &mut Vec<String>,
) -> Result<Vec<CertificateRevocationListDer<'static>>, FileError> {
    let (bytes, _) = files::read(path)?;
    let lists = CertificateRevocationListDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    let format = |reason: String| FileError::Format {
        path: path.into(),
        wanted: "list of revoked certificates",
        reason,
    };
    match lists {
        Ok(lists) if lists.is_empty() => Err(format("there is no list in it".into())),
        Ok(lists) => {
            for list in &lists {
                let list = CertificateList::from_der(list).map_err(|error| format(error.to_string()))?;
                let Some(end) = list.tbs_cert_list.next_update.map(|end| end.to_system_time()) else {
                    continue;
                };
                let left = end.duration_since(now).map_err(|_| {
                    format(format!("it ended at {}: fetch a new one from the CA", text_of(end)))
                })?;
                if left < WARN_BEFORE {
                    let (path, end) = (path.display(), text_of(end));
                    warnings.push(format!(
                        "The list in {path} ends at {end}: fetch a new one from the CA before"
                    ));
                }
            }
            Ok(lists)
        }
        Err(error) => Err(format(error.to_string())),
    }
}

fn load_pair(certificate: &Path, key: &Path) -> Result<(CertifiedKey, Certificate), FileError> {
    let format =
        |path: &Path, wanted, reason: String| FileError::Format { path: path.into(), wanted, reason };
    let (bytes, _) = files::read(certificate)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| format(certificate, "certificate", error.to_string()))?;
    let Some(first) = chain.first() else {
        return Err(format(certificate, "certificate", "there is none in it".into()));
    };
    let facts = Certificate::read(first).map_err(|reason| format(certificate, "certificate", reason))?;
    let (bytes, metadata) = files::read(key)?;
    let mode = std::os::unix::fs::MetadataExt::mode(&metadata) & 0o7777;
    if mode & EXPOSED != 0 {
        return Err(FileError::Exposed { path: key.into(), mode });
    }
    let private = PrivateKeyDer::from_pem_slice(&bytes)
        .map_err(|error| format(key, "unencrypted private key", error.to_string()))?;
    let private = provider().key_provider.load_private_key(without_leading_zero(private));
    let private = private.map_err(|error| format(key, "private key that is supported", error.to_string()))?;
    let pair = CertifiedKey::new(chain, private);
    match pair.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok((pair, facts)),
        Err(_) => Err(FileError::Mismatch { key: key.into(), certificate: certificate.into() }),
    }
}

/// GnuTLS (3.7) writes the number in keys of elliptic curves with a zero before it where its first bit is set, as if it were an
/// INTEGER. It is an OCTET STRING of a fixed length (RFC 5915, 3), and nobody else reads it so: half of all keys.
fn without_leading_zero(key: PrivateKeyDer<'static>) -> PrivateKeyDer<'static> {
    let PrivateKeyDer::Sec1(sec1) = &key else { return key };
    // A SEQUENCE of less than 256 bytes, version 1, and the number.
    let (length_at, body) = match sec1.secret_sec1_der() {
        [0x30, 0x81, _, body @ ..] => (2, body),
        [0x30, length, body @ ..] if *length < 0x80 => (1, body),
        _ => return key,
    };
    let [2, 1, 1, 4, length @ (33 | 49), 0, rest @ ..] = body else { return key };
    let mut shorter = sec1.secret_sec1_der()[..=length_at].to_vec();
    shorter[length_at] -= 1;
    shorter.extend([2, 1, 1, 4, length - 1]);
    shorter.extend(rest);
    PrivateKeyDer::Sec1(shorter.into())
}

fn check_facts(path: &Path, facts: &Certificate, purpose: Purpose, now: SystemTime) -> Result<(), FileError> {
    let date = |remedy| FileError::Date {
        path: path.into(),
        from: text_of(facts.not_before),
        until: text_of(facts.not_after),
        now: text_of(now),
        remedy,
    };
    if now < facts.not_before {
        return Err(date("see whether the clock is right"));
    }
    if now > facts.not_after {
        return Err(date("issue another"));
    }
    if !facts.allows(purpose) {
        let wanted = if purpose == Purpose::Server { "server" } else { "client" };
        return Err(FileError::Purpose { path: path.into(), wanted });
    }
    Ok(())
}

/// What a peer with the same CA would find.
fn check_chain(
    files: &Files,
    path: &Path,
    pair: &CertifiedKey,
    roots: &Arc<RootCertStore>,
    side: Side,
) -> Result<(), FileError> {
    let untrusted = |reason| FileError::Untrusted { path: path.into(), ca: files.ca.clone(), reason };
    let Some((first, rest)) = pair.cert.split_first() else { return Ok(()) };
    // Without a name to compare: a verifier of clients' certificates has none, and the purpose was compared above.
    let verified = match side {
        Side::Source => {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider()).build();
            let verifier = verifier.map_err(|error| untrusted(error.to_string()))?;
            verifier.verify_client_cert(first, rest, UnixTime::now()).map(|_| ())
        }
        Side::Destination => {
            let verifier = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider()).build();
            let verifier = verifier.map_err(|error| untrusted(error.to_string()))?;
            let nobody = rustls::pki_types::ServerName::try_from("name-that-is-not-compared.invalid")
                .map_err(|error| untrusted(error.to_string()))?;
            match verifier.verify_server_cert(first, rest, &nobody, &[], UnixTime::now()) {
                Err(rustls::Error::InvalidCertificate(
                    rustls::CertificateError::NotValidForName
                    | rustls::CertificateError::NotValidForNameContext { .. },
                ))
                | Ok(_) => Ok(()),
                Err(error) => Err(error),
            }
        }
    };
    verified.map_err(|error| match error {
        rustls::Error::InvalidCertificate(error) => untrusted(error::certificate(&error)),
        error => untrusted(error.to_string()),
    })
}

fn ends_soon(path: &Path, facts: &Certificate, now: SystemTime) -> Option<String> {
    let left = facts.remaining(now).filter(|left| *left < WARN_BEFORE)?;
    let (path, until) = (path.display(), text_of(facts.not_after));
    let days = left.as_secs() / (24 * 3600);
    Some(format!("The certificate in {path} ends in {days} days, at {until}: issue another before"))
}

/// The pairs as one connection uses them: it is kept which was shown.
#[derive(Debug)]
pub(super) struct Shown {
    pairs: Vec<Arc<CertifiedKey>>,
    chosen: OnceLock<usize>,
}

impl Shown {
    fn choose(&self, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let understood = |pair: &Arc<CertifiedKey>| pair.key.choose_scheme(schemes).is_some();
        // Where none is understood the handshake says so better than a missing certificate would.
        let index = self.pairs.iter().position(understood).unwrap_or(0);
        self.pairs.get(*self.chosen.get_or_init(|| index)).cloned()
    }

    /// Which pair was shown, by its number.
    pub(super) fn chosen(&self) -> usize {
        self.chosen.get().copied().unwrap_or(0)
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.signature_schemes())
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.choose(schemes)
    }

    fn has_certs(&self) -> bool {
        !self.pairs.is_empty()
    }
}
