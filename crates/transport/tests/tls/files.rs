//! Directories of certificates that are not as they should be: each says which file, and what to do.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use authority::{Authority, Request};
use rustls::pki_types::pem::PemObject;
use transport::{Credentials, Listener, Side, Tls, Trust};

use crate::{World, chain, connected, destination, listen};

fn refused(directory: &Path, side: Side, words: &[&str]) {
    let error = chain(&Credentials::load(directory, side).unwrap_err());
    for word in words {
        assert!(error.contains(word), "'{error}' says nothing of '{word}'");
    }
}

fn host(world: &World) -> std::path::PathBuf {
    world.issue("host", &Request::new(["host.example"]))
}

#[test]
fn a_file_that_is_missing_is_named() {
    let world = World::new();
    for file in ["ca-cert.pem", "client-cert.pem", "client-key.pem"] {
        let host = host(&world);
        fs::remove_file(host.join(file)).unwrap();
        refused(&host, Side::Source, &[file, "whimbrel ca issue"]);
        Credentials::load(&host, Side::Destination).map(|_| ()).unwrap_or_else(|error| {
            assert_eq!(file, "ca-cert.pem", "{error}");
        });
    }
    refused(Path::new("/nonexistent"), Side::Source, &["/nonexistent", "ca-cert.pem"]);
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let world = World::new();
    let host = host(&world);
    let key = host.join("client-key.pem");
    for mode in [0o644, 0o604, 0o620, 0o666] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        refused(&host, Side::Source, &["client-key.pem", &format!("{mode:04o}"), "chmod 0600"]);
    }
    for mode in [0o600, 0o400, 0o440] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        Credentials::load(&host, Side::Source).unwrap();
    }
}

#[test]
fn a_certificate_that_is_not_valid_now_is_refused() {
    let world = World::new();
    let mut request = Request::new(["host.example"]);
    request.days = -1;
    refused(
        &world.issue("old", &request),
        Side::Destination,
        &["server-cert.pem", "valid from", "issue another"],
    );
    (request.days, request.from_day) = (30, 3);
    refused(&world.issue("new", &request), Side::Source, &["client-cert.pem", "valid from", "clock"]);
}

#[test]
fn a_certificate_for_another_purpose_is_refused() {
    let world = World::new();
    let host = host(&world);
    for file in ["cert", "key"] {
        fs::copy(host.join(format!("client-{file}.pem")), host.join(format!("server-{file}.pem"))).unwrap();
    }
    refused(&host, Side::Destination, &["server-cert.pem", "serverAuth"]);
    Credentials::load(&host, Side::Source).unwrap();
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let world = World::new();
    let host = host(&world);
    fs::copy(host.join("server-key.pem"), host.join("client-key.pem")).unwrap();
    refused(&host, Side::Source, &["client-key.pem is not the key of", "client-cert.pem"]);
}

#[test]
fn a_certificate_of_another_authority_than_the_one_beside_it_is_refused() {
    let world = World::new();
    let host = host(&world);
    Authority::init(&world.path("other"), "Other CA").unwrap();
    fs::copy(world.path("other/ca-cert.pem"), host.join("ca-cert.pem")).unwrap();
    for side in [Side::Source, Side::Destination] {
        refused(&host, side, &["was not issued by a CA in", "ca-cert.pem", "same CA"]);
    }
}

#[test]
fn what_is_no_certificate_key_or_list_is_refused() {
    let world = World::new();
    for (file, wanted) in [
        ("ca-cert.pem", "CA certificate"),
        ("client-cert.pem", "certificate"),
        ("client-key.pem", "private key"),
        ("ca-crl.pem", "list of revoked certificates"),
    ] {
        for content in
            ["", "no PEM\n", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "-----BEGIN"]
        {
            let host = host(&world);
            fs::write(host.join(file), content).unwrap();
            refused(&host, Side::Source, &[file, wanted]);
            fs::remove_file(host.join(file)).unwrap();
        }
    }
}

#[test]
fn what_is_no_file_or_has_no_end_is_refused() {
    let world = World::new();
    let host = host(&world);
    let ca = host.join("ca-cert.pem");
    fs::remove_file(&ca).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &ca).unwrap();
    refused(&host, Side::Source, &["ca-cert.pem", "regular file"]);
    fs::remove_file(&ca).unwrap();
    fs::write(&ca, vec![b'-'; 9 << 20]).unwrap();
    refused(&host, Side::Source, &["ca-cert.pem", "bytes long"]);
}

#[test]
fn a_certificate_that_ends_within_two_weeks_is_warned_of() {
    let world = World::new();
    let mut request = Request::new(["host.example"]);
    request.days = 13;
    let credentials = Credentials::load(&world.issue("soon", &request), Side::Source).unwrap();
    let [warning] = credentials.warnings() else { panic!("{:?}", credentials.warnings()) };
    assert!(warning.contains("client-cert.pem") && warning.contains("issue another"), "{warning}");
    request.days = 16;
    let credentials = Credentials::load(&world.issue("later", &request), Side::Source).unwrap();
    assert_eq!(credentials.warnings(), [""; 0]);
}

#[test]
fn names_of_libvirt_and_names_with_numbers_are_found_too() {
    let world = World::new();
    let (a, b) = world.two_hosts();
    for (directory, side) in [(&a.directory, "client"), (&b.directory, "server")] {
        fs::rename(directory.join("ca-cert.pem"), directory.join("cacert.pem")).unwrap();
        for kind in ["cert", "key"] {
            let from = directory.join(format!("{side}-{kind}.pem"));
            fs::rename(from, directory.join(format!("{side}{kind}.pem"))).unwrap();
        }
    }
    connected(&a, &listen(&b));
    for kind in ["cert", "key"] {
        fs::rename(
            b.directory.join(format!("server{kind}.pem")),
            b.directory.join(format!("server-{kind}-0.pem")),
        )
        .unwrap();
    }
    let other = world.issue("other", &Request::new(["127.0.0.1", "other.example"]));
    for kind in ["cert", "key"] {
        fs::copy(other.join(format!("server-{kind}.pem")), b.directory.join(format!("server-{kind}-1.pem")))
            .unwrap();
    }
    let (here, _) = connected(&a, &listen(&b));
    assert_eq!(here.security().unwrap().peer.subject, "CN=127.0.0.1");
    assert_eq!(Credentials::load(&b.directory, Side::Destination).unwrap().certificates().len(), 2);
}

/// As GnuTLS 3.7 writes half of its keys.
#[test]
fn a_key_whose_number_has_a_zero_before_it_is_read() {
    const LINE: &str = "-----";
    let world = World::new();
    let (a, b) = world.two_hosts();
    let path = b.directory.join("server-key.pem");
    // From PKCS#8 to the key alone, by another program.
    let converted = std::process::Command::new("openssl").arg("ec").arg("-in").arg(&path).output().unwrap();
    let pem = String::from_utf8(converted.stdout).unwrap();
    let der = rustls::pki_types::PrivateSec1KeyDer::from_pem_slice(pem.as_bytes()).unwrap();
    let der = der.secret_sec1_der();
    assert_eq!((der[0], &der[2..7]), (0x30, &[2, 1, 1, 4, 32][..]));
    let longer = [&[0x30, der[1] + 1, 2, 1, 1, 4, 33, 0][..], &der[7..]].concat();
    let base64 = std::process::Command::new("openssl")
        .args(["base64"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn();
    let mut base64 = base64.unwrap();
    std::io::Write::write_all(&mut base64.stdin.take().unwrap(), &longer).unwrap();
    let text = String::from_utf8(base64.wait_with_output().unwrap().stdout).unwrap();
    fs::write(&path, format!("{LINE}BEGIN EC PRIVATE KEY{LINE}\n{text}{LINE}END EC PRIVATE KEY{LINE}\n"))
        .unwrap();
    connected(&a, &listen(&b));
}

#[test]
fn a_destination_that_does_not_say_who_may_come_does_not_listen() {
    let world = World::new();
    let (_, b) = world.two_hosts();
    let listen =
        |tls: &Tls| Listener::bind(&"tcp:127.0.0.1:0".parse().unwrap(), &Trust::Certified(tls.clone()));
    let error = chain(&listen(&Tls::new(&b.directory)).unwrap_err());
    assert!(error.contains("which sources may come"), "{error}");
    listen(&destination(&b.directory, "*")).unwrap();
}

#[test]
fn on_a_unix_socket_the_name_of_the_destination_has_to_be_said() {
    let world = World::new();
    let (mut a, b) = world.two_hosts();
    let address = transport::Address::Unix(world.path("socket"));
    let _listener = Listener::bind(&address, &Trust::Certified(b)).unwrap();
    let error = chain(&crate::dial(&address, &a).unwrap_err());
    assert!(error.contains("which name the certificate"), "{error}");
    a.hostname = Some("no name!".into());
    let error = chain(&crate::dial(&address, &a).unwrap_err());
    assert!(error.contains("'no name!' is neither"), "{error}");
}
