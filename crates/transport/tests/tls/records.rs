//! Records of ours, and those of rustls.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
};

use rustls::{
    AlertDescription, ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection,
    SupportedCipherSuite,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use transport::{Accept, Connection, Tls, TransportError};

use crate::{PATIENCE, World, chain, dial, listen};

/// A connection of rustls's, of either side.
struct Rustls {
    session: rustls::Connection,
    socket: TcpStream,
}

impl Rustls {
    fn new(session: impl Into<rustls::Connection>, socket: TcpStream) -> Self {
        let mut rustls = Self { session: session.into(), socket };
        while rustls.session.is_handshaking() || rustls.session.wants_write() {
            rustls.session.complete_io(&mut rustls.socket).unwrap();
        }
        rustls
    }

    fn send(&mut self, bytes: &[u8]) {
        self.session.writer().write_all(bytes).unwrap();
        self.flush();
    }

    fn flush(&mut self) {
        while self.session.wants_write() {
            self.session.write_tls(&mut self.socket).unwrap();
        }
    }

    /// What arrives until `bytes` is full, or nothing follows.
    fn receive(&mut self, bytes: &mut [u8]) -> Result<usize, rustls::Error> {
        let mut received = 0;
        while received < bytes.len() {
            match self.session.reader().read(&mut bytes[received..]) {
                Ok(0) => break,
                Ok(read) => received += read,
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                    self.session.read_tls(&mut self.socket).unwrap();
                    self.session.process_new_packets()?;
                }
            }
        }
        Ok(received)
    }
}

fn provider(suite: SupportedCipherSuite) -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites = vec![suite];
    provider.into()
}

fn pem(tls: &Tls, side: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let file = |name: &str| tls.directory.join(format!("{side}-{name}.pem"));
    let certificate = CertificateDer::from_pem_file(file("cert")).unwrap();
    (vec![certificate], PrivateKeyDer::from_pem_file(file("key")).unwrap())
}

fn server(tls: &Tls, suite: SupportedCipherSuite) -> ServerConfig {
    let (chain, key) = pem(tls, "server");
    ServerConfig::builder_with_provider(provider(suite))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap()
}

fn client(tls: &Tls, suite: SupportedCipherSuite) -> ClientConnection {
    let (chain, key) = pem(tls, "client");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(tls.directory.join("ca-cert.pem")).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(provider(suite))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    ClientConnection::new(config.into(), "127.0.0.1".try_into().unwrap()).unwrap()
}

/// Our source, and rustls at the destination.
fn rustls_at_the_destination(world: &World, suite: SupportedCipherSuite) -> (Connection, Rustls) {
    let (mut source, destination) = world.two_hosts();
    source.rekey_after = 50_000;
    let config = server(&destination, suite);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{}", listener.local_addr().unwrap()).parse().unwrap();
    std::thread::scope(|scope| {
        let there = scope.spawn(|| {
            let there = ServerConnection::new(config.into()).unwrap();
            Rustls::new(there, listener.accept().unwrap().0)
        });
        let here = dial(&address, &source).unwrap();
        (here, there.join().unwrap())
    })
}

/// rustls at the source, and our destination.
fn rustls_at_the_source(world: &World, suite: SupportedCipherSuite) -> (Connection, Rustls) {
    let (source, mut destination) = world.two_hosts();
    destination.rekey_after = 50_000;
    let listener = listen(&destination);
    let transport::Address::Tcp { port, .. } = *listener.address() else { unreachable!() };
    std::thread::scope(|scope| {
        let here = scope.spawn(|| {
            let here = listener.accept().unwrap();
            here.authenticate(PATIENCE).unwrap();
            here
        });
        let there = Rustls::new(client(&source, suite), TcpStream::connect(("127.0.0.1", port)).unwrap());
        (here.join().unwrap(), there)
    })
}

fn both_sides(world: &World, suite: SupportedCipherSuite) -> impl Iterator<Item = (Connection, Rustls)> {
    [rustls_at_the_destination, rustls_at_the_source].into_iter().map(move |connect| connect(world, suite))
}

/// Every cipher suite of TLS 1.3 that there is.
fn suites() -> impl Iterator<Item = SupportedCipherSuite> {
    let all = rustls::crypto::ring::ALL_CIPHER_SUITES.iter().copied();
    all.filter(|suite| suite.tls13().is_some())
}

#[test]
fn rustls_understands_our_records_and_we_its_while_both_renew_their_keys() {
    const BYTES: usize = 40_000;
    const TIMES: u8 = 20;
    let world = World::new();
    for (suite, (here, mut there)) in
        suites().flat_map(|suite| both_sides(&world, suite).map(move |ends| (suite, ends)))
    {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for time in 0..TIMES {
                    here.send(&[time; BYTES]).unwrap();
                    let mut answer = [0; BYTES];
                    here.receive(&mut answer).unwrap();
                    assert!(answer == [!time; BYTES], "{suite:?}");
                }
            });
            for time in 0..TIMES {
                let mut arrived = [0; BYTES];
                assert_eq!(there.receive(&mut arrived), Ok(BYTES), "{suite:?}");
                assert!(arrived == [time; BYTES], "{suite:?}");
                there.send(&[!time; BYTES / 2]);
                // In mid-stream; it asks that we do the same.
                there.session.refresh_traffic_keys().unwrap();
                there.send(&[!time; BYTES / 2]);
            }
        });
        // As often as it asked, but for the last time: nothing was sent since.
        assert!(here.security().unwrap().rekeys >= u64::from(TIMES) - 1);
    }
}

#[test]
fn a_farewell_is_understood_by_rustls_and_its_by_us() {
    let world = World::new();
    let suite = suites().next().unwrap();
    for (here, mut there) in both_sides(&world, suite) {
        here.send(b"last").unwrap();
        here.shutdown();
        let mut arrived = [0; 8];
        // It would not come to an end without a farewell.
        assert_eq!(there.receive(&mut arrived), Ok(4));
        assert_eq!(arrived[..4], *b"last");
    }
    for (here, mut there) in both_sides(&world, suite) {
        there.session.send_close_notify();
        there.flush();
        // The socket is open still.
        assert!(matches!(here.receive(&mut [0]), Err(TransportError::Closed)));
    }
}

#[test]
fn who_harms_a_record_is_told_and_an_alert_ends_the_connection() {
    let world = World::new();
    let suite = suites().next().unwrap();
    for (here, mut there) in both_sides(&world, suite) {
        there.session.writer().write_all(b"a page").unwrap();
        let mut record = Vec::new();
        there.session.write_tls(&mut record).unwrap();
        *record.last_mut().unwrap() ^= 1;
        there.socket.write_all(&record).unwrap();
        let error = chain(&here.receive(&mut [0]).unwrap_err());
        assert!(error.contains("does not decrypt"), "{error}");
        let told = rustls::Error::AlertReceived(AlertDescription::BadRecordMac);
        assert_eq!(there.receive(&mut [0]), Err(told));
    }
    for (here, mut there) in both_sides(&world, suite) {
        // What rustls cannot open it says so of.
        let mut garbage: &[u8] =
            &[23, 3, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
        there.session.read_tls(&mut garbage).unwrap();
        assert!(there.session.process_new_packets().is_err());
        there.flush();
        let error = chain(&here.receive(&mut [0]).unwrap_err());
        assert!(error.contains("BadRecordMac"), "{error}");
        assert!(matches!(here.send(b"more"), Err(TransportError::Tls(_))));
    }
}

#[test]
fn what_is_sent_right_behind_a_handshake_arrives() {
    let world = World::new();
    let suite = suites().next().unwrap();
    // By a source, together with the last message of its handshake: the destination reads both at once.
    let (source, destination) = world.two_hosts();
    let listener = listen(&destination);
    let transport::Address::Tcp { port, .. } = *listener.address() else { unreachable!() };
    std::thread::scope(|scope| {
        let here = scope.spawn(|| {
            let here = listener.accept().unwrap();
            here.authenticate(PATIENCE).unwrap();
            let mut arrived = [0; 12];
            here.receive(&mut arrived).unwrap();
            arrived
        });
        let mut there = client(&source, suite);
        there.writer().write_all(b"right behind").unwrap();
        let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        while there.is_handshaking() {
            let mut flight = Vec::new();
            while there.wants_write() {
                there.write_tls(&mut flight).unwrap();
            }
            socket.write_all(&flight).unwrap();
            there.read_tls(&mut socket).unwrap();
            there.process_new_packets().unwrap();
        }
        let mut flight = Vec::new();
        while there.wants_write() {
            there.write_tls(&mut flight).unwrap();
        }
        socket.write_all(&flight).unwrap();
        assert_eq!(here.join().unwrap(), *b"right behind");
    });
    // By a destination, before the source has finished the handshake.
    let mut config = server(&destination, suite);
    config.send_half_rtt_data = true;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{}", listener.local_addr().unwrap()).parse().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut there = ServerConnection::new(config.into()).unwrap();
            let mut socket = listener.accept().unwrap().0;
            there.writer().write_all(b"at once").unwrap();
            there.read_tls(&mut socket).unwrap();
            there.process_new_packets().unwrap();
            let mut flight = Vec::new();
            while there.wants_write() {
                there.write_tls(&mut flight).unwrap();
            }
            assert!(there.is_handshaking());
            socket.write_all(&flight).unwrap();
            let mut there = Rustls::new(there, socket);
            there.send(b" and later");
        });
        let here = dial(&address, &source).unwrap();
        let mut arrived = [0; 17];
        here.receive(&mut arrived).unwrap();
        assert_eq!(arrived, *b"at once and later");
    });
}

#[test]
fn a_recorded_connection_is_of_no_use_to_who_plays_it_again() {
    let world = World::new();
    let (source, destination) = world.two_hosts();
    let listener = listen(&destination);
    let transport::Address::Tcp { port, .. } = *listener.address() else { unreachable!() };
    let between = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{}", between.local_addr().unwrap()).parse().unwrap();
    let accept = || {
        let here = listener.accept()?;
        here.authenticate(PATIENCE)?;
        let mut arrived = [0; 10];
        here.receive(&mut arrived)?;
        here.send(b"understood")?;
        // Nothing follows, and it is its turn to end the connection.
        let _ = here.receive(&mut [0]);
        Ok::<_, TransportError>(arrived)
    };
    let recorded = std::thread::scope(|scope| {
        let recorder = scope.spawn(|| {
            let (from, to) = (between.accept().unwrap().0, TcpStream::connect(("127.0.0.1", port)).unwrap());
            let record = |mut from: TcpStream, mut to: TcpStream| {
                let (mut recorded, mut buffer) = (Vec::new(), [0; 4096]);
                while let Ok(bytes @ 1..) = from.read(&mut buffer) {
                    recorded.extend_from_slice(&buffer[..bytes]);
                    to.write_all(&buffer[..bytes]).unwrap();
                }
                let _ = to.shutdown(std::net::Shutdown::Write);
                recorded
            };
            let (from_too, to_too) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            let answers = scope.spawn(move || record(to_too, from_too));
            (record(from, to), answers.join().unwrap())
        });
        let accepted = scope.spawn(accept);
        let here = dial(&address, &source).unwrap();
        here.send(b"a greeting").unwrap();
        here.receive(&mut [0; 10]).unwrap();
        here.shutdown();
        assert_eq!(accepted.join().unwrap().unwrap(), *b"a greeting");
        recorder.join().unwrap()
    });
    let (said, answers) = recorded;
    // To the destination, as if it were the source.
    std::thread::scope(|scope| {
        let accepted = scope.spawn(accept);
        let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.write_all(&said).unwrap();
        let _ = std::io::copy(&mut socket, &mut std::io::sink());
        assert!(matches!(accepted.join().unwrap(), Err(TransportError::Tls(_))));
    });
    // To the source, as if it were the destination.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut socket = between.accept().unwrap().0;
            socket.write_all(&answers).unwrap();
            let _ = std::io::copy(&mut socket, &mut std::io::sink());
        });
        assert!(matches!(dial(&address, &source), Err(TransportError::Tls(_))));
    });
}
