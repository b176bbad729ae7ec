//! The certificate that the server shows.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ServerConfig,
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
    let wrong = |path: &Path, error: String| TlsError::File {
        path: path.to_owned(),
        source: io::Error::other(error),
    };
    let path = directory.join("server-cert.pem");
    let chain = CertificateDer::pem_file_iter(&path).map_err(|error| wrong(&path, error.to_string()))?;
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(|error| wrong(&path, error.to_string()))?;
    let path = directory.join("server-key.pem");
    let key = PrivateKeyDer::from_pem_file(&path).map_err(|error| wrong(&path, error.to_string()))?;
    let pair = |source| TlsError::Pair { directory: directory.to_owned(), source };
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(pair)?;
    let mut config = builder.with_no_client_auth().with_single_cert(chain, key).map_err(pair)?;
    config.alpn_protocols = vec![HTTP2.to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
