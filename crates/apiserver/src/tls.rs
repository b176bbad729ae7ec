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
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
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

/// TLS for calls to agents: this server shows `client-cert.pem` of a directory, and trusts whom `ca-cert.pem` there has issued to.
///
/// # Errors
/// A file is missing or is not what it must be.
pub(crate) fn agent_tls_config(directory: &Path) -> Result<ClientConfig, TlsError> {
    let roots = roots_of(&directory.join("ca-cert.pem"))?;
    let chain = chain_of(&directory.join("client-cert.pem"))?;
    let key = key_of(&directory.join("client-key.pem"))?;
    let pair = |source| TlsError::Pair { directory: directory.to_owned(), source };
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(pair)?;
    builder.with_root_certificates(roots).with_client_auth_cert(chain, key).map_err(pair)
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
}
