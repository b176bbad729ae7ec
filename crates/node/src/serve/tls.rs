//! Who comes, and whom they find.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use objects::CONTROL_PLANE_NAME;
use parking_lot::Mutex;
use rustls::{
    RootCertStore, ServerConfig,
    client::verify_server_name,
    crypto::ring,
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::{ParsedCertificate, WebPkiClientVerifier},
};

/// What is read of a directory.
const FILES: [&str; 4] = ["ca-cert.pem", "server-cert.pem", "server-key.pem", REVOKED];
/// What was taken back; is there once something was.
const REVOKED: &str = "ca-crl.pem";

/// When each of [`FILES`] was changed, as far as it is there.
type Changed = [Option<SystemTime>; FILES.len()];

/// Who the agent is: the certificates of a directory, read again when they have changed, since they are renewed.
pub(super) struct Identity {
    directory: PathBuf,
    read: Mutex<Option<(Changed, Arc<ServerConfig>)>>,
}

impl Identity {
    pub(super) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), read: Mutex::default() }
    }

    /// As it is now. Reads files.
    pub(super) fn config(&self) -> io::Result<Arc<ServerConfig>> {
        let changed =
            FILES.map(|name| self.directory.join(name).metadata().and_then(|file| file.modified()).ok());
        let mut read = self.read.lock();
        if let Some((then, config)) = &*read
            && *then == changed
        {
            return Ok(config.clone());
        }
        let config = Arc::new(config(&self.directory)?);
        *read = Some((changed, config.clone()));
        Ok(config)
    }
}

/// TLS with the certificates of a directory, to which nobody comes whom the authority there has not issued a certificate for clients, or from whom it was taken
/// back.
fn config(directory: &Path) -> io::Result<ServerConfig> {
    let chain = |name: &str| -> io::Result<Vec<CertificateDer<'static>>> {
        let chain = CertificateDer::pem_file_iter(directory.join(name)).map_err(io::Error::other)?;
        chain.collect::<Result<_, _>>().map_err(io::Error::other)
    };
    let mut roots = RootCertStore::empty();
    for authority in chain("ca-cert.pem")? {
        roots.add(authority).map_err(io::Error::other)?;
    }
    let key = PrivateKeyDer::from_pem_file(directory.join("server-key.pem")).map_err(io::Error::other)?;
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let verifier = verifier.with_crls(revoked(&directory.join(REVOKED))?).allow_unknown_revocation_status();
    let verifier = verifier.enforce_revocation_expiration().build().map_err(io::Error::other)?;
    let builder = ServerConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().map_err(io::Error::other)?;
    let builder = builder.with_client_cert_verifier(verifier);
    builder.with_single_cert(chain("server-cert.pem")?, key).map_err(io::Error::other)
}

fn revoked(path: &Path) -> io::Result<Vec<CertificateRevocationListDer<'static>>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let lists = CertificateRevocationListDer::pem_file_iter(path);
    let lists = lists.and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(io::Error::other)?;
    if lists.is_empty() {
        return Err(io::Error::other(format!("There is no list in {}", path.display())));
    }
    Ok(lists)
}

/// Whether a certificate, which the authority has issued, is the control plane's: other nodes have some too, and that name none of them.
pub(super) fn is_control_plane(certificates: Option<&[CertificateDer<'_>]>) -> bool {
    let (Some([first, ..]), Ok(name)) = (certificates, ServerName::try_from(CONTROL_PLANE_NAME)) else {
        return false;
    };
    ParsedCertificate::try_from(first)
        .is_ok_and(|certificate| verify_server_name(&certificate, &name).is_ok())
}
