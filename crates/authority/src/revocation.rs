//! What an authority has taken back.

use std::path::Path;

use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber,
};
use time::{Duration, OffsetDateTime};
use x509_cert::{
    Certificate,
    crl::CertificateList,
    der::{Decode, DecodePem, oid::AssociatedOid, pem},
    ext::pkix::CrlNumber,
};

use crate::{
    Authority, AuthorityError,
    files::{self, CA_REVOKED, ISSUED, append, keep_public, read},
};

/// For how long a list counts. Hosts do not ask for a newer one by themselves, so that it is long.
const LIST_DAYS: i64 = 3653;

/// What is in the list that was written last.
#[derive(Default)]
struct List {
    /// Numbers of certificates.
    serials: Vec<Vec<u8>>,
    /// The list's own number, big-endian; none where there is no list.
    number: Vec<u8>,
}

impl Authority {
    /// Takes back the certificates of a host: those in the directory that was issued to it, and all earlier ones of the same keys. Every host needs the new `ca-crl.pem`, which is
    /// in the authority's directory.
    ///
    /// # Errors
    /// There is no certificate, it is of another authority, or the list cannot be written.
    pub fn revoke(&self, directory: &Path) -> Result<(), AuthorityError> {
        // Two at once would each write a list without what the other one takes back.
        let _lock = files::lock(&self.directory)?;
        let earlier = self.list()?;
        let mut serials = earlier.serials;
        let mut found = false;
        for side in ["server", "client"] {
            let path = directory.join(format!("{side}-cert.pem"));
            if !path.exists() {
                continue;
            }
            found = true;
            let foreign = |reason: String| AuthorityError::Foreign { path: path.clone(), reason };
            let certificate =
                Certificate::from_pem(read(&path)?).map_err(|error| foreign(error.to_string()))?;
            let ours =
                Certificate::from_pem(&self.certificate).map_err(|error| foreign(error.to_string()))?;
            let certificate = certificate.tbs_certificate;
            if certificate.issuer != ours.tbs_certificate.subject {
                return Err(AuthorityError::OfAnother { path, issuer: certificate.issuer.to_string() });
            }
            serials.push(certificate.serial_number.as_bytes().to_vec());
            // Whoever has the key may have certificates of it from before it was renewed.
            let key = certificate.subject_public_key_info.subject_public_key;
            serials.extend(self.issued_to(key.raw_bytes())?);
        }
        if !found {
            return Err(AuthorityError::Nothing { path: directory.into() });
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
            crl_number: next_number(&earlier.number),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        keep_public(&self.directory.join(CA_REVOKED), &params.signed_by(&self.issuer)?.pem()?)
    }

    /// What was taken back so far.
    fn list(&self) -> Result<List, AuthorityError> {
        let path = self.directory.join(CA_REVOKED);
        if !path.exists() {
            return Ok(List::default());
        }
        let text = read(&path)?;
        let foreign = |reason: String| AuthorityError::Foreign { path: path.clone(), reason };
        let (_, der) = pem::decode_vec(text.as_bytes()).map_err(|error| foreign(error.to_string()))?;
        let list = CertificateList::from_der(&der).map_err(|error| foreign(error.to_string()))?.tbs_cert_list;
        let revoked = list.revoked_certificates.unwrap_or_default();
        let serials = revoked.iter().map(|one| one.serial_number.as_bytes().to_vec()).collect();
        let extensions = list.crl_extensions.unwrap_or_default();
        let number = extensions.iter().find(|extension| extension.extn_id == CrlNumber::OID);
        let number = number.map(|number| CrlNumber::from_der(number.extn_value.as_bytes())).transpose();
        let number = number.map_err(|error| foreign(error.to_string()))?;
        Ok(List { serials, number: number.map(|number| number.0.as_bytes().to_vec()).unwrap_or_default() })
    }

    /// Keeps which certificate was issued to which key.
    pub(crate) fn note(&self, serial: &[u8], key: &[u8]) -> Result<(), AuthorityError> {
        append(&self.directory.join(ISSUED), &format!("{} {}\n", hex(serial), hex(key)))
    }

    /// Serial numbers of all certificates that were issued to a key.
    fn issued_to(&self, key: &[u8]) -> Result<Vec<Vec<u8>>, AuthorityError> {
        let path = self.directory.join(ISSUED);
        if !path.exists() {
            return Ok(Vec::new());
        }
        let (text, key) = (read(&path)?, hex(key));
        let of_key = text.lines().filter_map(|line| line.split_once(' ')).filter(|(_, of)| *of == key);
        Ok(of_key.filter_map(|(serial, _)| unhex(serial)).collect())
    }

    /// Whether a certificate of this key was taken back.
    pub(crate) fn is_taken_back(&self, key: &[u8]) -> Result<bool, AuthorityError> {
        let revoked = self.list()?.serials;
        Ok(self.issued_to(key)?.iter().any(|serial| revoked.contains(serial)))
    }

    /// A host that is new, or renewed, gets the list with it.
    pub(crate) fn copy_revoked_to(&self, directory: &Path) -> Result<(), AuthorityError> {
        let path = self.directory.join(CA_REVOKED);
        if path.exists() { keep_public(&directory.join(CA_REVOKED), &read(&path)?) } else { Ok(()) }
    }
}

/// The number of the next list, which must be higher (RFC 5280, 5.2.3); `number` is big-endian and not negative.
fn next_number(number: &[u8]) -> SerialNumber {
    let mut next = [&[0], number].concat();
    for byte in next.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            break;
        }
    }
    let zeros = next.iter().take_while(|byte| **byte == 0).count();
    SerialNumber::from_slice(&next[zeros..])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<_>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    Some(digits?.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | *digit as u8)).collect())
}
