//! The certificate that the server shows.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use parking_lot::Mutex;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::WebPkiServerVerifier,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

/// HTTP/2, as TLS names it.
pub(crate) const HTTP2: &[u8] = b"h2";

/// Why there is no certificate to show.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read, or is not what it must be.
    #[error("Cannot use {}: make the certificates anew", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Certificate and key do not fit.
    #[error("The certificate and the key in {} do not fit: make them anew", directory.display())]
    Pair {
        /// Where they are.
        directory: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

/// TLS with `server-cert.pem` and `server-key.pem` of a directory, as [`crate::Server`] needs it. They are read again when they have changed: certificates are
/// renewed while the server runs.
///
/// # Errors
/// A file is missing or is not what it must be.
pub fn tls_config(directory: &Path) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let shown = Shown::new(directory, &provider)?;
    let pair = |source| TlsError::Pair { directory: directory.to_owned(), source };
    let builder = ServerConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().map_err(pair)?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::new(shown));
    config.alpn_protocols = vec![HTTP2.to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// What is read of the directory.
const FILES: [&str; 2] = ["server-cert.pem", "server-key.pem"];

/// When each of [`FILES`] was changed, as far as it is there.
type Changed = [Option<SystemTime>; FILES.len()];

/// The certificate that is shown now.
#[derive(Debug)]
struct Shown {
    directory: PathBuf,
    provider: Arc<CryptoProvider>,
    read: Mutex<(Changed, Arc<CertifiedKey>)>,
}

impl Shown {
    fn new(directory: &Path, provider: &Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let changed = changed(directory);
        let pair = Arc::new(pair_of(directory, provider)?);
        Ok(Self {
            directory: directory.to_owned(),
            provider: provider.clone(),
            read: Mutex::new((changed, pair)),
        })
    }

    /// As it is now; where it cannot be read, as it was.
    fn now(&self) -> Arc<CertifiedKey> {
        let changed = changed(&self.directory);
        let mut read = self.read.lock();
        if read.0 != changed {
            // What is wrong is said once, until it changes again.
            read.0 = changed;
            match pair_of(&self.directory, &self.provider) {
                Ok(pair) => read.1 = Arc::new(pair),
                Err(error) => {
                    tracing::warn!(%error, "The renewed certificate cannot be used: the old one is shown");
                }
            }
        }
        read.1.clone()
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.now())
    }
}

fn changed(directory: &Path) -> Changed {
    FILES.map(|name| directory.join(name).metadata().and_then(|file| file.modified()).ok())
}

fn pair_of(directory: &Path, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let chain = chain_of(&directory.join(FILES[0]))?;
    let key = key_of(&directory.join(FILES[1]))?;
    let pair = |source| TlsError::Pair { directory: directory.to_owned(), source };
    CertifiedKey::from_der(chain, key, provider).map_err(pair)
}

/// TLS for calls to agents: this server shows `client-cert.pem` of a directory, and trusts whom `ca-cert.pem` there has issued to, unless it was taken back
/// by `ca-crl.pem`, where that is there.
///
/// # Errors
/// A file is missing or is not what it must be.
pub(crate) fn agent_tls_config(directory: &Path) -> Result<ClientConfig, TlsError> {
    let list = directory.join("ca-crl.pem");
    let revoked = if list.exists() { revoked_of(&list)? } else { Vec::new() };
    let roots = Arc::new(roots_of(&directory.join("ca-cert.pem"))?);
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).with_crls(revoked);
    let verifier = verifier.allow_unknown_revocation_status().enforce_revocation_expiration().build();
    let verifier = verifier.map_err(|error| wrong(&list, error.to_string()))?;
    let chain = chain_of(&directory.join("client-cert.pem"))?;
    let key = key_of(&directory.join("client-key.pem"))?;
    let pair = |source| TlsError::Pair { directory: directory.to_owned(), source };
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().map_err(pair)?;
    builder.with_webpki_verifier(verifier).with_client_auth_cert(chain, key).map_err(pair)
}

/// TLS for calls to a server whose certificate one of the authorities in a file has issued; this side shows none.
///
/// # Errors
/// The file is missing or is not what it must be.
pub(crate) fn client_tls_config(authorities: &Path) -> Result<ClientConfig, TlsError> {
    let roots = roots_of(authorities)?;
    let directory = authorities.parent().unwrap_or(authorities);
    let pair = |source| TlsError::Pair { directory: directory.to_owned(), source };
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(pair)?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn roots_of(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in chain_of(path)? {
        roots.add(authority).map_err(|error| wrong(path, error.to_string()))?;
    }
    Ok(roots)
}

fn revoked_of(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let lists = CertificateRevocationListDer::pem_file_iter(path);
    let lists = lists.and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match lists.map_err(|error| wrong(path, error.to_string()))? {
        lists if lists.is_empty() => Err(wrong(path, "there is no list in it".to_owned())),
        lists => Ok(lists),
    }
}

fn chain_of(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain = CertificateDer::pem_file_iter(path).map_err(|error| wrong(path, error.to_string()))?;
    chain.collect::<Result<_, _>>().map_err(|error| wrong(path, error.to_string()))
}

fn key_of(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| wrong(path, error.to_string()))
}

fn wrong(path: &Path, error: String) -> TlsError {
    TlsError::File { path: path.to_owned(), source: io::Error::other(error) }
}

#[cfg(test)]
mod tests {
    use authority::{Authority, Request};
    use rustls::{ClientConnection, ServerConnection, pki_types::ServerName};

    use super::*;

    #[test]
    fn a_renewed_certificate_is_shown_and_a_broken_one_is_not() {
        let place = tempfile::tempdir().unwrap();
        let tls = place.path().join("tls");
        let authority = Authority::init(&place.path().join("ca"), "test").unwrap();
        let issue = || authority.issue(&tls, &Request::new(["localhost"])).unwrap();
        issue();
        let shown = Shown::new(&tls, &Arc::new(ring::default_provider())).unwrap();
        let first = shown.now();
        assert_eq!(first.cert, shown.now().cert);
        // Both may come within one tick of the file system's clock.
        let later = SystemTime::now() + std::time::Duration::from_secs(2);
        let touch = |time| std::fs::File::open(tls.join(FILES[0])).unwrap().set_modified(time).unwrap();
        issue();
        touch(later);
        let second = shown.now();
        assert_ne!(first.cert, second.cert);
        std::fs::write(tls.join(FILES[0]), "nothing").unwrap();
        touch(later + std::time::Duration::from_secs(2));
        assert_eq!(shown.now().cert, second.cert);
    }

    /// Whether this server and the agent with the certificates of a directory come to terms.
    fn meets(ours: &Path, agents: &Path) -> Result<(), rustls::Error> {
        let provider = Arc::new(ring::default_provider());
        let server =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let chain = chain_of(&agents.join("server-cert.pem")).unwrap();
        let key = key_of(&agents.join("server-key.pem")).unwrap();
        let server = server.with_no_client_auth().with_single_cert(chain, key).unwrap();
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();
        let client = Arc::new(agent_tls_config(ours).unwrap());
        let mut client = ClientConnection::new(client, ServerName::try_from("node-a").unwrap()).unwrap();
        while client.is_handshaking() {
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).unwrap();
            }
            server.read_tls(&mut bytes.as_slice()).unwrap();
            server.process_new_packets().unwrap();
            bytes.clear();
            while server.wants_write() {
                server.write_tls(&mut bytes).unwrap();
            }
            assert!(!bytes.is_empty(), "neither has anything to say");
            client.read_tls(&mut bytes.as_slice()).unwrap();
            client.process_new_packets()?;
        }
        Ok(())
    }

    #[test]
    fn an_agent_whose_certificate_was_taken_back_is_not_called() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        let authority = Authority::init(&at("ca"), "test").unwrap();
        for (name, folder) in [("plane", at("plane")), ("node-a", at("first")), ("node-a", at("second"))] {
            authority.issue(&folder, &Request::new([name])).unwrap();
        }
        assert_eq!(meets(&at("plane"), &at("first")), Ok(()));
        authority.revoke(&at("first")).unwrap();
        std::fs::copy(at("ca/ca-crl.pem"), at("plane/ca-crl.pem")).unwrap();
        assert!(meets(&at("plane"), &at("first")).is_err());
        assert_eq!(meets(&at("plane"), &at("second")), Ok(()), "another of the same name");
        std::fs::write(at("plane/ca-crl.pem"), "").unwrap();
        assert!(agent_tls_config(&at("plane")).is_err());
    }
}
