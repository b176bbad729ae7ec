//! Sources that are let in, and then do not keep to the protocol.

use std::{io::Write, net::TcpStream, sync::Arc};

use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::{
    ClientConfig, ClientConnection, ConnectionTrafficSecrets, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use transport::{Accept, Connection, Tls, TransportError};

use crate::{PATIENCE, World, chain, connected, listen};

/// Content types of records (RFC 8446, 5.1).
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

/// A source with the right certificate that encrypts whatever it likes.
struct Rogue {
    socket: TcpStream,
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

impl Rogue {
    fn connect(tls: &Tls, port: u16) -> Self {
        let file = |name: &str| tls.directory.join(name);
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(file("ca-cert.pem")).unwrap()).unwrap();
        let mut provider = rustls::crypto::ring::default_provider();
        provider.cipher_suites = vec![rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256];
        let mut config = ClientConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_file(file("client-cert.pem")).unwrap()],
                PrivateKeyDer::from_pem_file(file("client-key.pem")).unwrap(),
            )
            .unwrap();
        config.enable_secret_extraction = true;
        let mut connection =
            ClientConnection::new(Arc::new(config), "127.0.0.1".try_into().unwrap()).unwrap();
        let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        while connection.is_handshaking() || connection.wants_write() {
            connection.complete_io(&mut socket).unwrap();
        }
        let (sequence, secrets) = connection.dangerous_extract_secrets().unwrap().tx;
        let ConnectionTrafficSecrets::Aes128Gcm { key, iv } = secrets else { unreachable!() };
        let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key.as_ref()).unwrap());
        Self { socket, key, iv: iv.as_ref().try_into().unwrap(), sequence }
    }

    /// Sends a record with this content.
    fn send(&mut self, kind: u8, content: &[u8]) {
        let mut sealed = [content, &[kind]].concat();
        let length = (sealed.len() + 16) as u16;
        let header = [&[APPLICATION_DATA, 3, 3][..], &length.to_be_bytes()].concat();
        let mut nonce = self.iv;
        for (byte, count) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= count;
        }
        self.sequence += 1;
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(nonce, Aad::from(&header), &mut sealed).unwrap();
        self.socket.write_all(&[header, sealed].concat()).unwrap();
    }
}

/// A rogue, and the destination's end of its connection.
fn rogue(world: &World) -> (Rogue, Connection) {
    let (source, destination) = world.two_hosts();
    let listener = listen(&destination);
    let transport::Address::Tcp { port, .. } = *listener.address() else { unreachable!() };
    std::thread::scope(|scope| {
        let accepted = scope.spawn(|| {
            let connection = listener.accept().unwrap();
            connection.authenticate(PATIENCE).unwrap();
            connection
        });
        let rogue = Rogue::connect(&source, port);
        (rogue, accepted.join().unwrap())
    })
}

#[test]
fn half_a_message_of_the_handshake_ends_the_connection_and_nothing_else() {
    let world = World::new();
    for half in [&[24][..], &[24, 0], &[24, 0, 0, 1], &[4, 0, 0, 9, 1, 2]] {
        let (mut rogue, connection) = rogue(&world);
        rogue.send(APPLICATION_DATA, b"greeting");
        connection.receive(&mut [0; 8]).unwrap();
        rogue.send(HANDSHAKE, half);
        let error = chain(&connection.receive(&mut [0; 1]).unwrap_err());
        assert!(error.contains("damaged or forged"), "{error}");
        // Whatever other threads do with it meanwhile.
        assert!(matches!(connection.send(b"answer"), Err(TransportError::Tls(_))));
        connection.shutdown();
        assert!(matches!(connection.receive(&mut [0; 1]), Err(TransportError::Stopped)));
    }
}

#[test]
fn half_a_message_behind_the_first_bytes_ends_the_connection() {
    let world = World::new();
    let (mut rogue, connection) = rogue(&world);
    rogue.send(APPLICATION_DATA, b"greeting");
    rogue.send(HANDSHAKE, &[24]);
    rogue.send(APPLICATION_DATA, b"and more");
    connection.receive(&mut [0; 8]).unwrap();
    connection.send(b"answer").unwrap();
    connection.receive(&mut [0; 8]).unwrap_err();
    connection.send(b"answer").unwrap_err();
    connection.shutdown();
}

#[test]
fn keys_are_not_renewed_for_ever_at_a_peers_wish() {
    let world = World::new();
    let (mut rogue, connection) = rogue(&world);
    // That it asks for ours as well. Its own keys it would have to change too: the next record does not decrypt.
    rogue.send(HANDSHAKE, &[24, 0, 0, 1, 1]);
    rogue.send(HANDSHAKE, &[24, 0, 0, 1, 1]);
    connection.receive(&mut [0; 1]).unwrap_err();
    connection.send(b"answer").unwrap_err();
}

#[test]
fn messages_that_have_no_place_after_the_handshake_end_the_connection() {
    let world = World::new();
    for message in [
        &[1, 0, 0, 0][..],
        &[11, 0, 0, 0],
        &[20, 0, 0, 0],
        &[24, 0, 0, 1, 7],
        &[99, 0, 0, 0],
        &[24, 255, 255, 255],
    ] {
        let (mut rogue, connection) = rogue(&world);
        rogue.send(HANDSHAKE, message);
        connection.receive(&mut [0; 1]).unwrap_err();
        connection.send(b"answer").unwrap_err();
        connection.shutdown();
    }
}

#[test]
fn empty_records_without_end_and_records_of_no_kind_end_the_connection() {
    let world = World::new();
    let (mut rogue, connection) = rogue(&world);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..100_000 {
                let mut sent = std::panic::AssertUnwindSafe(&mut rogue);
                if std::panic::catch_unwind(move || sent.send(APPLICATION_DATA, b"")).is_err() {
                    break;
                }
            }
        });
        connection.receive(&mut [0; 1]).unwrap_err();
        connection.shutdown();
    });
    let (mut rogue, connection) = self::rogue(&world);
    rogue.send(77, b"what");
    connection.receive(&mut [0; 1]).unwrap_err();
}

#[test]
fn a_good_source_gets_in_while_a_crowd_never_finishes_its_handshake() {
    let world = World::new();
    let (source, destination) = world.two_hosts();
    let listener = listen(&destination);
    let transport::Address::Tcp { port, .. } = *listener.address() else { unreachable!() };
    let crowd: Vec<_> = (0..100).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    std::thread::scope(|scope| {
        let listener = &listener;
        for _ in 0..crowd.len() {
            let stranger = listener.accept().unwrap();
            scope.spawn(move || stranger.authenticate(PATIENCE).unwrap_err());
        }
        connected(&source, listener);
        drop(crowd);
    });
}
