//! What an authority leaves in directories, and what it takes back.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

use std::{collections::BTreeSet, fs, os::unix::fs::MetadataExt, path::Path};

use whimbrel_authority::{Authority, AuthorityError, Request};
use x509_cert::{
    Certificate,
    crl::CertificateList,
    der::{Decode, DecodePem, oid::AssociatedOid, pem},
    ext::pkix::CrlNumber,
};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

fn serial(path: &Path) -> Vec<u8> {
    let certificate = Certificate::from_pem(fs::read(path).unwrap()).unwrap();
    certificate.tbs_certificate.serial_number.as_bytes().to_vec()
}

fn revoked(ca: &Path) -> BTreeSet<Vec<u8>> {
    let (_, der) = pem::decode_vec(&fs::read(ca.join("ca-crl.pem")).unwrap()).unwrap();
    let list = CertificateList::from_der(&der).unwrap().tbs_cert_list.revoked_certificates;
    list.unwrap_or_default().iter().map(|one| one.serial_number.as_bytes().to_vec()).collect()
}

#[test]
fn keys_are_their_owners_and_certificates_everyones() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, host) = (folder.path().join("ca"), folder.path().join("host"));
    let authority = Authority::init(&ca, "Example").unwrap();
    authority.issue(&host, &Request::new(["host-a", "10.0.0.1", "spiffe://x/a"])).unwrap();
    for (path, expected) in [
        (ca.join("ca-key.pem"), 0o600),
        (ca.join("ca-cert.pem"), 0o644),
        (host.join("server-key.pem"), 0o600),
        (host.join("client-key.pem"), 0o600),
        (host.join("client-cert.pem"), 0o644),
        (host, 0o700),
    ] {
        assert_eq!(mode(&path), expected, "{}", path.display());
    }
}

#[test]
fn an_authority_is_not_overwritten_and_can_be_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca");
    Authority::init(&ca, "Example").unwrap();
    assert!(matches!(Authority::init(&ca, "Other"), Err(AuthorityError::Exists { .. })));
    let again = Authority::open(&ca).unwrap();
    again.issue(&folder.path().join("host"), &Request::new(["host"])).unwrap();
    let issued =
        Certificate::from_pem(fs::read(folder.path().join("host/client-cert.pem")).unwrap()).unwrap();
    assert_eq!(issued.tbs_certificate.issuer.to_string(), "CN=Example");
    assert!(Authority::open(&folder.path().join("host")).is_err());
}

#[test]
fn a_renewed_certificate_keeps_its_key_and_one_that_was_taken_back_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, host) = (folder.path().join("ca"), folder.path().join("host"));
    let authority = Authority::init(&ca, "Example").unwrap();
    let request = Request::new(["host"]);
    let (certificate, key) = (host.join("client-cert.pem"), host.join("client-key.pem"));
    let mut serials = BTreeSet::new();
    for _ in 0..3 {
        authority.issue(&host, &request).unwrap();
        serials.insert(serial(&certificate));
        serials.insert(serial(&host.join("server-cert.pem")));
    }
    assert_eq!(serials.len(), 6, "each has a number of its own");
    let kept = fs::read(&key).unwrap();
    authority.issue(&host, &request).unwrap();
    assert_eq!(fs::read(&key).unwrap(), kept);

    // A thief may have any of those that were issued to the keys.
    authority.revoke(&host).unwrap();
    assert!(revoked(&ca).is_superset(&serials));
    authority.issue(&host, &request).unwrap();
    assert_ne!(fs::read(&key).unwrap(), kept);
    assert!(!revoked(&ca).contains(&serial(&certificate)));
    assert!(host.join("ca-crl.pem").exists());

    // What is taken back later is added to what was before.
    let other = folder.path().join("other");
    authority.issue(&other, &Request::new(["other"])).unwrap();
    let before = revoked(&ca);
    authority.revoke(&other).unwrap();
    assert!(revoked(&ca).is_superset(&before) && revoked(&ca).len() == before.len() + 2);
}

/// The number of the list.
fn number(ca: &Path) -> u128 {
    let (_, der) = pem::decode_vec(&fs::read(ca.join("ca-crl.pem")).unwrap()).unwrap();
    let extensions = CertificateList::from_der(&der).unwrap().tbs_cert_list.crl_extensions.unwrap();
    let number = extensions.iter().find(|one| one.extn_id == CrlNumber::OID).unwrap();
    let number = CrlNumber::from_der(number.extn_value.as_bytes()).unwrap();
    number.0.as_bytes().iter().fold(0, |number, byte| number << 8 | u128::from(*byte))
}

#[test]
fn many_that_are_taken_back_at_once_are_all_taken_back_and_each_list_has_a_higher_number() {
    const AT_ONCE: usize = 8;
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca");
    let authority = Authority::init(&ca, "Example").unwrap();
    let hosts: Vec<_> = (0..AT_ONCE).map(|host| folder.path().join(format!("host-{host}"))).collect();
    std::thread::scope(|scope| {
        for host in &hosts {
            // Each as a process of its own would do it.
            scope.spawn(|| {
                let authority = Authority::open(&ca).unwrap();
                authority.issue(host, &Request::new(["host"])).unwrap();
                authority.revoke(host).unwrap();
            });
        }
    });
    let expected: BTreeSet<_> = hosts
        .iter()
        .flat_map(|host| ["server", "client"].map(|side| serial(&host.join(format!("{side}-cert.pem")))))
        .collect();
    assert_eq!(revoked(&ca), expected);
    assert_eq!(number(&ca), AT_ONCE as u128);
    // Past a byte's end as well.
    for later in AT_ONCE + 1..260 {
        authority.revoke(&hosts[0]).unwrap();
        assert_eq!(number(&ca), later as u128);
    }
}

#[test]
fn a_directory_of_another_user_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, host) = (folder.path().join("ca"), folder.path().join("host"));
    let authority = Authority::init(&ca, "Example").unwrap();
    fs::create_dir(&host).unwrap();
    if std::os::unix::fs::chown(&host, Some(12_345), None).is_err() {
        eprintln!("SKIPPED: ONLY ROOT CAN GIVE A DIRECTORY AWAY");
        return;
    }
    let refused = authority.issue(&host, &Request::new(["host"]));
    assert!(matches!(refused, Err(AuthorityError::OfAnotherUser { owner: 12_345, .. })), "{refused:?}");
    assert!(!host.join("server-key.pem").exists());
    std::os::unix::fs::chown(&ca, Some(12_345), None).unwrap();
    assert!(matches!(Authority::open(&ca), Err(AuthorityError::OfAnotherUser { .. })));
}

#[test]
fn what_another_authority_issued_is_not_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let ours = Authority::init(&folder.path().join("ours"), "Ours").unwrap();
    let theirs = Authority::init(&folder.path().join("theirs"), "Theirs").unwrap();
    let host = folder.path().join("host");
    theirs.issue(&host, &Request::new(["host"])).unwrap();
    assert!(matches!(ours.revoke(&host), Err(AuthorityError::OfAnother { .. })));
    assert!(matches!(ours.revoke(folder.path()), Err(AuthorityError::Nothing { .. })));
}

#[test]
fn names_that_no_certificate_can_have_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::init(&folder.path().join("ca"), "Example").unwrap();
    for name in ["", "a b", "host/a", "ä", "*", "a\nb"] {
        let issued = authority.issue(&folder.path().join("host"), &Request::new([name]));
        assert!(matches!(issued, Err(AuthorityError::Name { .. })), "{name:?}");
    }
    let none = authority.issue(&folder.path().join("host"), &Request::new([""; 0]));
    assert!(matches!(none, Err(AuthorityError::NoName)));
    for name in ["", "a=b", "a,b", "a\nb"] {
        assert!(matches!(Authority::init(&folder.path().join("x"), name), Err(AuthorityError::Name { .. })));
    }
}
