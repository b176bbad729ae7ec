//! The certificate that the server shows.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
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

/// TLS with `server-cert.pem` and `server-key.pem` of a directory, as [`crate::Server`] needs it.
///
/// # Errors
/// A file is missing or is not what it must be.
pub fn tls_config(directory: &Path) -> Result<ServerConfig, TlsError> {
    let chain = chain_of(&directory.join("server-cert.pem"))?;
    let key = key_of(&directory.join("server-key.pem"))?;
    let pair = |source| TlsError::Pair { directory: directory.to_owned(), source };
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(pair)?;
    let mut config = builder.with_no_client_auth().with_single_cert(chain, key).map_err(pair)?;
    config.alpn_protocols = vec![HTTP2.to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// TLS for calls to agents: this server shows `client-cert.pem` of a directory, and trusts whom `ca-cert.pem` there has issued to.
///
/// # Errors
/// A file is missing or is not what it must be.
pub(crate) fn agent_tls_config(directory: &Path) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    let path = directory.join("ca-cert.pem");
    for authority in chain_of(&path)? {
        roots.add(authority).map_err(|error| wrong(&path, error.to_string()))?;
    }
    let chain = chain_of(&directory.join("client-cert.pem"))?;
    let key = key_of(&directory.join("client-key.pem"))?;
    let pair = |source| TlsError::Pair { directory: directory.to_owned(), source };
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(pair)?;
    builder.with_root_certificates(roots).with_client_auth_cert(chain, key).map_err(pair)
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
