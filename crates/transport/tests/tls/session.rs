//! Connections of a session belong together, and no other does.

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use transport::{Accept, Connection, TransportError};

use crate::{PATIENCE, World, connected, dial, listen};

#[test]
fn only_the_ends_of_the_control_connection_can_prove_that_a_channel_belongs_to_it() {
    let world = World::new();
    let (source, destination) = world.two_hosts();
    let listener = listen(&destination);
    let (control, control_there) = connected(&source, &listener);
    let (channel, channel_there) = connected(&source, &listener);
    let (other, other_there) = connected(&source, &listener);
    let secret = control.session_secret(b"one").unwrap().unwrap();
    let secret_there = control_there.session_secret(b"one").unwrap().unwrap();

    let proof = secret.proof(&channel, b"pages 0").unwrap();
    assert!(secret_there.is_proven(&channel_there, b"pages 0", &proof));

    assert!(!secret_there.is_proven(&channel_there, b"pages 1", &proof), "another index");
    assert!(
        !secret_there.is_proven(&other_there, b"pages 0", &proof),
        "another connection, as of a man between"
    );
    let mut harmed = proof;
    harmed[31] ^= 1;
    assert!(!secret_there.is_proven(&channel_there, b"pages 0", &harmed));
    let of_other = other.session_secret(b"one").unwrap().unwrap();
    let proof = of_other.proof(&channel, b"pages 0").unwrap();
    assert!(
        !secret_there.is_proven(&channel_there, b"pages 0", &proof),
        "the secret of another control connection"
    );
    let of_session = control.session_secret(b"two").unwrap().unwrap();
    let proof = of_session.proof(&channel, b"pages 0").unwrap();
    assert!(!secret_there.is_proven(&channel_there, b"pages 0", &proof), "the secret of another session");
}

/// The other side is rustls with buffers of its own, which derives exported values itself.
#[test]
fn what_is_proven_is_what_another_implementation_derives() {
    let world = World::new();
    let (source, destination) = world.two_hosts();
    for suite in rustls::crypto::ring::DEFAULT_CIPHER_SUITES.iter().filter(|suite| suite.tls13().is_some()) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("tcp:{}", listener.local_addr().unwrap()).parse().unwrap();
        let mut provider = rustls::crypto::ring::default_provider();
        provider.cipher_suites = vec![*suite];
        let file = |name: &str| destination.directory.join(name);
        let config = rustls::ServerConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_file(file("server-cert.pem")).unwrap()],
                PrivateKeyDer::from_pem_file(file("server-key.pem")).unwrap(),
            )
            .unwrap();
        let (proof, derived) = std::thread::scope(|scope| {
            let derived = scope.spawn(|| {
                let mut there = rustls::ServerConnection::new(config.into()).unwrap();
                let mut socket = listener.accept().unwrap().0;
                while there.is_handshaking() {
                    there.complete_io(&mut socket).unwrap();
                }
                let export = |label: &[u8], context| {
                    there.export_keying_material([0; 32], label, Some(context)).unwrap()
                };
                (export(b"EXPORTER-Whimbrel-Session", b"one"), export(b"EXPORTER-Channel-Binding", b""))
            });
            let here = dial(&address, &source).unwrap();
            let proof = here.session_secret(b"one").unwrap().unwrap().proof(&here, b"pages 0").unwrap();
            (proof, derived.join().unwrap())
        });
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &derived.0);
        let expected = ring::hmac::sign(&key, &[&derived.1[..], b"pages 0"].concat());
        assert_eq!(proof, expected.as_ref(), "{suite:?}");
    }
}

#[test]
fn a_connection_in_clear_has_no_secret_and_proves_nothing() {
    let world = World::new();
    let (source, destination) = world.two_hosts();
    let listener = listen(&destination);
    let (control, _there) = connected(&source, &listener);
    let (plain, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let plain = Connection::from_socket(plain).unwrap();
    assert!(plain.session_secret(b"one").unwrap().is_none());
    let secret = control.session_secret(b"one").unwrap().unwrap();
    assert!(matches!(secret.proof(&plain, b""), Err(TransportError::NotEncrypted)));
    assert!(!secret.is_proven(&plain, b"", &[0; 32]));
}

#[test]
fn before_the_other_side_is_known_nothing_is_sent_and_nothing_read() {
    let world = World::new();
    let (_, destination) = world.two_hosts();
    let listener = listen(&destination);
    let transport::Address::Tcp { port, .. } = listener.address() else { unreachable!() };
    let _client = std::net::TcpStream::connect(("127.0.0.1", *port)).unwrap();
    let connection = listener.accept().unwrap();
    assert!(matches!(connection.send(b"x"), Err(TransportError::NotAuthenticated)));
    assert!(matches!(connection.receive(&mut [0]), Err(TransportError::NotAuthenticated)));
    assert!(matches!(connection.session_secret(b"one"), Err(TransportError::NotAuthenticated)));
    assert!(connection.security().is_none());
}

#[test]
fn both_sides_know_whom_they_talk_to_and_how() {
    let world = World::new();
    let (source, destination) = world.two_hosts();
    let listener = listen(&destination);
    let (here, there) = connected(&source, &listener);
    let (here, there) = (here.security().unwrap(), there.security().unwrap());
    assert_eq!((here.protocol, here.cipher), ("TLS 1.3", "TLS_AES_128_GCM_SHA256"));
    assert_eq!(here.cipher, there.cipher);
    assert_eq!(here.peer, there.ours);
    assert_eq!(there.peer, here.ours);
    assert_eq!(there.peer.subject, "CN=host-a.example");
    assert_eq!(there.peer.names, ["dns:host-a.example", "uri:uri://host-a/x"]);
    assert_eq!(here.peer.names, ["ip:127.0.0.1", "dns:host-b.example"]);
}

#[test]
fn a_channel_goes_to_the_same_place_with_the_same_certificates() {
    let world = World::new();
    let (source, destination) = world.two_hosts();
    let listener = listen(&destination);
    let (control, _there) = connected(&source, &listener);
    // The source's own are gone meanwhile: a migration under way keeps what it read.
    std::fs::remove_dir_all(&source.directory).unwrap();
    std::thread::scope(|scope| {
        let accepted = scope.spawn(|| listener.accept().and_then(|there| there.authenticate(PATIENCE)));
        control.dial_again(PATIENCE).unwrap();
        accepted.join().unwrap().unwrap();
    });
}
