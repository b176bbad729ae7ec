use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixListener,
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

use authority::{Authority, Request};
use objects::CONTROL_PLANE_NAME;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};

use super::*;
use crate::{Config, Registration};

/// An agent that serves, with the log of one VMM.
struct Agent {
    folder: tempfile::TempDir,
    address: SocketAddr,
}

type Stream = StreamOwned<ClientConnection, TcpStream>;

fn agent() -> Agent {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::init(&folder.path().join("ca"), "test").unwrap();
    for (directory, name) in [("tls", "node-a"), ("other", "node-b"), ("plane", CONTROL_PLANE_NAME)] {
        authority.issue(&folder.path().join(directory), &Request::new([name])).unwrap();
    }
    let stranger = Authority::init(&folder.path().join("ca2"), "other").unwrap();
    stranger.issue(&folder.path().join("stranger"), &Request::new([CONTROL_PLANE_NAME])).unwrap();
    let vmm = folder.path().join("vmms/busy-1");
    fs::create_dir_all(&vmm).unwrap();
    fs::write(vmm.join("serial.log"), "hello").unwrap();
    let config = config(folder.path());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(serve(listener, Arc::new(Desk::new(&config))));
    });
    Agent { folder, address }
}

fn config(directory: &Path) -> Config {
    Config {
        name: "node-a".to_owned(),
        directory: directory.to_owned(),
        vmm: "/vmm".into(),
        workload: "/kernel".into(),
        tls: directory.join("tls"),
        address: "127.0.0.1".parse().unwrap(),
        migration_address: None,
        share: 1.0,
        leases: "default".to_owned(),
        registration: Registration::Agent,
        cgroup: None,
        log_format: config::LogFormat::Text,
    }
}

impl Agent {
    fn config(&self) -> Config {
        config(self.folder.path())
    }

    /// A connection that shows the certificate of a directory; none where that is `None`.
    fn connect(&self, shows: Option<&str>) -> Stream {
        let chain = |path: &Path| -> Vec<CertificateDer<'static>> {
            CertificateDer::pem_file_iter(path).unwrap().map(Result::unwrap).collect()
        };
        let mut roots = RootCertStore::empty();
        roots.add(chain(&self.folder.path().join("tls/ca-cert.pem")).remove(0)).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
        let config = match shows.map(|name| self.folder.path().join(name)) {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let key = PrivateKeyDer::from_pem_file(own.join("client-key.pem")).unwrap();
                builder.with_client_auth_cert(chain(&own.join("client-cert.pem")), key).unwrap()
            }
        };
        let name = ServerName::try_from("node-a").unwrap();
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        StreamOwned::new(connection, stream)
    }

    /// What comes back for a path, if anything does.
    fn get(&self, shows: Option<&str>, path: &str) -> std::io::Result<String> {
        let mut stream = self.connect(shows);
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply)?;
        Ok(reply)
    }
}

/// Asks for a console, and returns the head of the reply.
fn ask(stream: &mut Stream) -> String {
    ask_for(stream, "")
}

/// The same, with a query.
fn ask_for(stream: &mut Stream, query: &str) -> String {
    write!(
        stream,
        "GET /vmms/busy-1/console{query} HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    String::from_utf8(head).unwrap()
}

/// A frame of the server that is no ping.
fn frame(stream: &mut Stream) -> (u8, Vec<u8>) {
    loop {
        let mut head = [0; 2];
        stream.read_exact(&mut head).unwrap();
        let mut bytes = vec![0; usize::from(head[1])];
        stream.read_exact(&mut bytes).unwrap();
        if head[0] & 0xf != 9 {
            return (head[0] & 0xf, bytes);
        }
    }
}

#[test]
fn the_control_plane_reads_and_nobody_else_does() {
    let agent = agent();
    let reply = agent.get(Some("plane"), "/vmms/busy-1/log").unwrap();
    assert!(reply.starts_with("HTTP/1.1 200") && reply.ends_with("hello"), "{reply}");
    for shows in [None, Some("stranger"), Some("other")] {
        let reply = agent.get(shows, "/vmms/busy-1/log");
        assert!(reply.as_ref().map_or(true, String::is_empty), "{shows:?}: {reply:?}");
    }
}

#[test]
fn a_control_plane_whose_certificate_was_taken_back_reads_nothing() {
    let agent = agent();
    assert!(agent.get(Some("plane"), "/vmms/busy-1/log").unwrap().starts_with("HTTP/1.1 200"));
    let at = |name: &str| agent.folder.path().join(name);
    Authority::open(&at("ca")).unwrap().revoke(&at("plane")).unwrap();
    let list = at("tls/ca-crl.pem");
    fs::copy(at("ca/ca-crl.pem"), &list).unwrap();
    let reply = agent.get(Some("plane"), "/vmms/busy-1/log");
    assert!(reply.as_ref().map_or(true, String::is_empty), "{reply:?}");
    // Nor does anybody where the list cannot be read.
    fs::write(&list, "").unwrap();
    let later = std::time::SystemTime::now() + Duration::from_secs(2);
    fs::File::options().write(true).open(&list).unwrap().set_modified(later).unwrap();
    let reply = agent.get(Some("plane"), "/vmms/busy-1/log");
    assert!(reply.as_ref().map_or(true, String::is_empty), "{reply:?}");
    fs::remove_file(list).unwrap();
    assert!(agent.get(Some("plane"), "/vmms/busy-1/log").unwrap().starts_with("HTTP/1.1 200"));
}

#[test]
fn whoever_may_not_come_keeps_nobody_out() {
    let agent = agent();
    // As many as there are places, with a certificate of the fleet that is another node's.
    let others: Vec<_> = (0..MAX_CONNECTIONS)
        .map(|_| {
            let mut other = agent.connect(Some("other"));
            // It may be refused before it has written.
            let _ = write!(other, "GET /vmms/busy-1/log HTTP/1.1\r\nhost: x\r\n\r\n");
            other
        })
        .collect();
    // And twice as many as may be at a handshake, which say nothing.
    let silent: Vec<_> =
        (0..2 * MAX_HANDSHAKES).map(|_| TcpStream::connect(agent.address).unwrap()).collect();
    let reply = agent.get(Some("plane"), "/vmms/busy-1/log").unwrap();
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    drop((others, silent));
}

#[test]
fn a_console_whose_time_is_up_is_closed_with_a_sentence() {
    let agent = agent();
    let _socket = UnixListener::bind(agent.folder.path().join("vmms/busy-1/serial.sock")).unwrap();
    let mut client = agent.connect(Some("plane"));
    let head = ask_for(&mut client, "?seconds=1");
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let (kind, why) = frame(&mut client);
    assert!(kind == 8 && String::from_utf8_lossy(&why).contains("connect again"), "{kind} {why:?}");
}

#[test]
fn what_is_not_there_is_a_sentence() {
    let agent = agent();
    for (path, code) in [
        ("/vmms/gone/log", 404),
        ("/vmms/..%2f..%2fca/log", 404),
        ("/vmms/../log", 404),
        ("/vmms/busy-1/report?session=x", 404),
        ("/vmms/busy-1/report", 404),
        ("/vmms/busy-1/forecast", 400),
        ("/vmms/busy-1/forecast?bandwidth=1", 404),
        ("/vmms/busy-1/console", 400),
        ("/vmms/busy-1/vm.yaml", 404),
        ("/", 404),
    ] {
        let reply = agent.get(Some("plane"), path).unwrap();
        assert!(reply.starts_with(&format!("HTTP/1.1 {code}")), "{path}: {reply}");
    }
    let figures = agent.get(Some("plane"), "/metrics").unwrap();
    assert!(figures.contains("whimbrel_agent_vmms{node=\"node-a\",state=\"up\"} 0"), "{figures}");
}

#[test]
fn figures_are_for_whoever_comes_where_they_are_for_all_and_nothing_else_is() {
    let agent = agent();
    let config = agent.config();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(serve_figures(listener, Arc::new(Desk::new(&config))));
    });
    let get = |path: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        reply
    };
    assert!(get("/metrics").contains("process_cpu_seconds_total"));
    assert!(get("/vmms/busy-1/log").starts_with("HTTP/1.1 404"));
}

#[test]
fn a_console_carries_bytes_both_ways_for_one_at_a_time() {
    let agent = agent();
    let socket = UnixListener::bind(agent.folder.path().join("vmms/busy-1/serial.sock")).unwrap();
    let mut first = agent.connect(Some("plane"));
    let head = ask(&mut first);
    assert!(head.starts_with("HTTP/1.1 101") && head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    let (mut guest, _) = socket.accept().unwrap();
    guest.write_all(b"login: ").unwrap();
    assert_eq!(frame(&mut first), (2, b"login: ".to_vec()));
    let second = ask(&mut agent.connect(Some("plane")));
    assert!(second.starts_with("HTTP/1.1 409"), "{second}");
    // A binary message of one byte, with a mask of zeroes.
    first.write_all(&[0x82, 0x81, 0, 0, 0, 0, b'x']).unwrap();
    let mut typed = [0];
    guest.read_exact(&mut typed).unwrap();
    assert_eq!(typed, *b"x");
    // The VMM ends: so does the console, and says so.
    drop(guest);
    let (kind, why) = frame(&mut first);
    assert!(kind == 8 && String::from_utf8_lossy(&why).contains("the VMM has ended"), "{kind} {why:?}");
    // And it is free again.
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !ask(&mut agent.connect(Some("plane"))).starts_with("HTTP/1.1 101") {
        assert!(std::time::Instant::now() < deadline, "nobody can sit down any more");
    }
}
