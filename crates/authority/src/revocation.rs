//! What an authority has taken back.

use std::path::Path;

use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber,
};
use time::{Duration, OffsetDateTime};
use x509_cert::{
    Certificate,
    crl::CertificateList,
    der::{Decode, DecodePem, pem},
};

use crate::{
    Authority, AuthorityError,
    files::{CA_REVOKED, keep_public, read},
    serial,
};

/// For how long a list counts. Hosts do not ask for a newer one by themselves, so that it is long.
const LIST_DAYS: i64 = 3653;

impl Authority {
    /// Takes back the certificates of a host, those in the directory that was issued to it. Every host needs the new `ca-crl.pem`, which is
    /// in the authority's directory.
    ///
    /// # Errors
    /// There is no certificate, it is of another authority, or the list cannot be written.
    pub fn revoke(&self, directory: &Path) -> Result<(), AuthorityError> {
        let mut serials = self.revoked()?;
        for side in ["server", "client"] {
            let path = directory.join(format!("{side}-cert.pem"));
            if !path.exists() && side == "client" {
                continue;
            }
            let foreign = |reason: String| AuthorityError::Foreign { path: path.clone(), reason };
            let certificate =
                Certificate::from_pem(read(&path)?).map_err(|error| foreign(error.to_string()))?;
            let ours =
                Certificate::from_pem(&self.certificate).map_err(|error| foreign(error.to_string()))?;
            let issuer = &certificate.tbs_certificate.issuer;
            if *issuer != ours.tbs_certificate.subject {
                return Err(AuthorityError::OfAnother { path, issuer: issuer.to_string() });
            }
            serials.push(certificate.tbs_certificate.serial_number.as_bytes().to_vec());
        }
        serials.sort();
        serials.dedup();
        let now = OffsetDateTime::now_utc();
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: now,
            reason_code: Some(RevocationReason::Unspecified),
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: now - Duration::hours(1),
            next_update: now + Duration::days(LIST_DAYS),
            crl_number: serial(),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        keep_public(&self.directory.join(CA_REVOKED), &params.signed_by(&self.issuer)?.pem()?)
    }

    /// Serial numbers of what was taken back so far.
    fn revoked(&self) -> Result<Vec<Vec<u8>>, AuthorityError> {
        let path = self.directory.join(CA_REVOKED);
        if !path.exists() {
            return Ok(Vec::new());
        }
        let text = read(&path)?;
        let foreign = |reason: String| AuthorityError::Foreign { path: path.clone(), reason };
        let (_, der) = pem::decode_vec(text.as_bytes()).map_err(|error| foreign(error.to_string()))?;
        let list = CertificateList::from_der(&der).map_err(|error| foreign(error.to_string()))?;
        let revoked = list.tbs_cert_list.revoked_certificates.unwrap_or_default();
        Ok(revoked.iter().map(|one| one.serial_number.as_bytes().to_vec()).collect())
    }

    /// A host that is new, or renewed, gets the list with it.
    pub(crate) fn copy_revoked_to(&self, directory: &Path) -> Result<(), AuthorityError> {
        let path = self.directory.join(CA_REVOKED);
        if path.exists() { keep_public(&directory.join(CA_REVOKED), &read(&path)?) } else { Ok(()) }
    }
}
