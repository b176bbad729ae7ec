//! Peers that must not be trusted, or do not trust: each is told why, on both sides.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use authority::{Authority, Request};
use transport::{Accept, Connection, Listener, Tls, TransportError, Trust};

use crate::{PATIENCE, World, chain, connect, connected, destination, dial, listen};

/// That both sides fail, and what each says.
fn refused(source: &Tls, listener: &Listener, source_says: &[&str], destination_says: &[&str]) {
    let (dialled, accepted) = connect(source, listener);
    for (error, words) in [(dialled.unwrap_err(), source_says), (accepted.unwrap_err(), destination_says)] {
        let error = chain(&error);
        for word in words {
            assert!(error.contains(word), "'{error}' says nothing of '{word}'");
        }
    }
}

#[test]
fn a_source_of_another_authority_is_refused() {
    let world = World::new();
    let (_, b) = world.two_hosts();
    let strangers = Authority::init(&world.path("other-ca"), "Other CA").unwrap();
    strangers.issue(&world.path("stranger"), &Request::new(["host-a.example"])).unwrap();
    // It knows the right authority, but shows a certificate of another: so its own check must be passed by.
    let stranger = Tls::new(world.path("stranger"));
    let both = std::fs::read_to_string(world.path("stranger/ca-cert.pem")).unwrap()
        + &std::fs::read_to_string(world.path("a/ca-cert.pem")).unwrap();
    std::fs::write(world.path("stranger/ca-cert.pem"), both).unwrap();
    refused(
        &stranger,
        &listen(&b),
        &["destination does not accept", "same CA"],
        &["certificate of the source", "UnknownIssuer"],
    );
}

#[test]
fn a_destination_of_another_authority_is_refused() {
    let world = World::new();
    let (a, _) = world.two_hosts();
    let strangers = Authority::init(&world.path("other-ca"), "Other CA").unwrap();
    strangers.issue(&world.path("stranger"), &Request::new(["127.0.0.1"])).unwrap();
    let stranger = destination(&world.path("stranger"), "*");
    refused(
        &a,
        &listen(&stranger),
        &["certificate of the destination", "UnknownIssuer", "same CA"],
        &["source does not accept"],
    );
}

#[test]
fn sides_that_have_signed_their_own_certificates_do_not_trust_each_other() {
    let world = World::new();
    let own = |name: &str, host: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![host.to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        let directory = world.path(name);
        std::fs::create_dir(&directory).unwrap();
        for file in ["ca-cert.pem", "server-cert.pem", "client-cert.pem"] {
            std::fs::write(directory.join(file), &certificate).unwrap();
        }
        for file in ["server-key.pem", "client-key.pem"] {
            std::fs::write(directory.join(file), key.serialize_pem()).unwrap();
            std::fs::set_permissions(
                directory.join(file),
                std::os::unix::fs::PermissionsExt::from_mode(0o600),
            )
            .unwrap();
        }
        directory
    };
    let (a, b) = world.two_hosts();
    let selfish = Tls::new(own("selfish-a", "host-a.example"));
    let (dialled, accepted) = connect(&selfish, &listen(&b));
    assert!(dialled.is_err() && accepted.is_err(), "a source");
    let (dialled, accepted) = connect(&a, &listen(&destination(&own("selfish-b", "127.0.0.1"), "*")));
    assert!(dialled.is_err() && accepted.is_err(), "a destination");
}

#[test]
fn a_list_of_revoked_certificates_that_cannot_be_read_lets_nobody_in() {
    let world = World::new();
    let (a, b) = world.two_hosts();
    let listener = listen(&b);
    connected(&a, &listener);
    std::os::unix::fs::symlink("nowhere", b.directory.join("ca-crl.pem")).unwrap();
    refused(&a, &listener, &["closed the connection"], &["ca-crl.pem"]);
}

#[test]
fn a_revoked_destination_is_refused() {
    let world = World::new();
    let (a, b) = world.two_hosts();
    world.authority.revoke(&b.directory).unwrap();
    std::fs::copy(world.path("ca/ca-crl.pem"), a.directory.join("ca-crl.pem")).unwrap();
    refused(
        &a,
        &listen(&b),
        &["certificate of the destination", "Revoked"],
        &["source does not accept", "revoked"],
    );
}

#[test]
fn a_source_that_lost_its_link_asks_with_the_certificates_that_it_had() {
    let world = World::new();
    let (a, b) = world.two_hosts();
    let listener = listen(&b);
    let dialler = transport::Dialler::new(listener.address().clone(), Trust::Certified(a.clone()));
    let dial = || {
        std::thread::scope(|scope| {
            let accepted = scope.spawn(|| listener.accept().and_then(|there| there.authenticate(PATIENCE)));
            let dialled = transport::Dial::dial(&dialler, PATIENCE);
            accepted.join().unwrap().unwrap();
            dialled.unwrap()
        })
    };
    dial();
    std::fs::remove_dir_all(&a.directory).unwrap();
    dial();
}

#[test]
fn a_destination_by_another_name_is_refused() {
    let world = World::new();
    let (mut a, b) = world.two_hosts();
    let listener = listen(&b);
    a.hostname = Some("host-c.example".into());
    refused(
        &a,
        &listener,
        &["host-c.example", "host-b.example", "say which to expect"],
        &["source does not accept", "another name"],
    );
    a.hostname = Some("host-b.example".into());
    connected(&a, &listener);
}

#[test]
fn a_source_that_is_not_in_the_list_is_refused_though_its_certificate_is_valid() {
    let world = World::new();
    let (a, b) = world.two_hosts();
    let listener = listen(&destination(&b.directory, "dns:host-c.example;uri:spiffe://example/c"));
    refused(
        &a,
        &listener,
        &["valid, but not in the list"],
        &["host-a.example", "not in the list", "uri:uri://host-a/x"],
    );
}

#[test]
fn a_revoked_source_is_refused_from_the_next_connection_on() {
    let world = World::new();
    let (a, b) = world.two_hosts();
    let listener = listen(&b);
    connected(&a, &listener);
    world.authority.revoke(&a.directory).unwrap();
    std::fs::copy(world.path("ca/ca-crl.pem"), b.directory.join("ca-crl.pem")).unwrap();
    refused(&a, &listener, &["revoked"], &["certificate of the source", "Revoked"]);
    // Who was not revoked still comes.
    let c = world.issue("c", &Request::new(["host-a.example"]));
    connected(&Tls::new(c), &listener);
}

#[test]
fn a_renewed_certificate_is_used_without_a_restart() {
    let world = World::new();
    let (a, b) = world.two_hosts();
    let listener = listen(&b);
    let (before, _) = connected(&a, &listener);
    let mut request = Request::new(["127.0.0.1", "renewed.example"]);
    request.days = 30;
    world.issue("b", &request);
    let (after, _) = connected(&a, &listener);
    let names = |connection: &Connection| connection.security().unwrap().peer.names;
    assert_eq!(names(&before), ["ip:127.0.0.1", "dns:host-b.example"]);
    assert_eq!(names(&after), ["ip:127.0.0.1", "dns:renewed.example"]);
}

#[test]
fn certificates_that_became_unusable_turn_sources_away_until_they_are_mended() {
    let world = World::new();
    let (a, b) = world.two_hosts();
    let listener = listen(&b);
    let certificate = b.directory.join("server-cert.pem");
    let good = std::fs::read(&certificate).unwrap();
    std::fs::write(&certificate, "half a certi").unwrap();
    refused(&a, &listener, &["closed the connection during the TLS handshake"], &["server-cert.pem"]);
    std::fs::write(&certificate, good).unwrap();
    connected(&a, &listener);
}

#[test]
fn a_source_in_clear_is_told_that_tls_is_wanted_in_tls() {
    let world = World::new();
    let (_, b) = world.two_hosts();
    let listener = listen(&b);
    std::thread::scope(|scope| {
        let accepted = scope.spawn(|| listener.accept().and_then(|there| there.authenticate(PATIENCE)));
        let plain = Connection::dial(listener.address(), &Trust::ThisHost, PATIENCE).unwrap();
        plain.send(&[0x77; 64]).unwrap();
        let error = chain(&accepted.join().unwrap().unwrap_err());
        assert!(error.contains("source does not use TLS"), "{error}");
    });
}

#[test]
fn a_destination_in_clear_is_recognised() {
    let world = World::new();
    let (a, _) = world.two_hosts();
    let listener = Listener::bind(&"tcp:127.0.0.1:0".parse().unwrap(), &Trust::ThisHost).unwrap();
    for words in ["GREETING AND MORE", ""] {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let there = listener.accept().unwrap();
                there.receive(&mut [0; 64]).unwrap();
                there.send(words.as_bytes()).unwrap();
                there.shutdown();
            });
            let error = chain(&dial(listener.address(), &a).unwrap_err());
            let expected = if words.is_empty() { "may not use TLS at all" } else { "does not use TLS" };
            assert!(error.contains(expected), "{error}");
        });
    }
}

#[test]
fn a_source_that_shows_no_certificate_is_refused() {
    let world = World::new();
    let (a, b) = world.two_hosts();
    let listener = listen(&b);
    let error = with_openssl(&listener, &["-CAfile", a.directory.join("ca-cert.pem").to_str().unwrap()]);
    assert!(error.contains("it shows none"), "{error}");
}

#[test]
fn a_source_with_an_older_version_of_tls_is_refused() {
    let world = World::new();
    let (_, b) = world.two_hosts();
    let error = with_openssl(&listen(&b), &["-tls1_2"]);
    assert!(error.contains("only older versions of TLS"), "{error}");
}

#[test]
fn openssl_with_a_certificate_of_the_list_is_let_in() {
    let world = World::new();
    let (a, b) = world.two_hosts();
    let listener = listen(&b);
    let path = |name: &str| a.directory.join(name).to_str().unwrap().to_owned();
    let (cert, key, ca) = (path("client-cert.pem"), path("client-key.pem"), path("ca-cert.pem"));
    let accepted =
        with_openssl(&listener, &["-cert", &cert, "-key", &key, "-CAfile", &ca, "-verify_return_error"]);
    assert_eq!(accepted, "");
}

/// What a destination says of `openssl s_client`; nothing where it lets it in.
fn with_openssl(listener: &Listener, arguments: &[&str]) -> String {
    let transport::Address::Tcp { port, .. } = listener.address() else { unreachable!() };
    let mut client = std::process::Command::new("openssl")
        .args(["s_client", "-quiet", "-connect", &format!("127.0.0.1:{port}")])
        .args(arguments)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let connection = listener.accept().unwrap();
    let said = connection.authenticate(PATIENCE);
    let _ = client.kill();
    client.wait().unwrap();
    said.err().map(|error| chain(&error)).unwrap_or_default()
}

#[test]
fn a_destination_with_an_older_version_of_tls_is_refused() {
    let world = World::new();
    let (a, b) = world.two_hosts();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let file = |name: &str| b.directory.join(name);
    let mut server = std::process::Command::new("openssl")
        .args(["s_server", "-quiet", "-tls1_2", "-accept", &format!("127.0.0.1:{port}")])
        .arg("-cert")
        .arg(file("server-cert.pem"))
        .arg("-key")
        .arg(file("server-key.pem"))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let address = format!("tcp:127.0.0.1:{port}").parse().unwrap();
    // Until it listens.
    let error = loop {
        match dial(&address, &a).unwrap_err() {
            TransportError::Connect { .. } => std::thread::yield_now(),
            error => break chain(&error),
        }
    };
    let _ = server.kill();
    server.wait().unwrap();
    assert!(error.contains("destination cannot do TLS 1.3"), "{error}");
}

#[test]
fn a_source_whose_certificate_has_ended_or_is_of_tomorrow_is_refused_by_the_clock_of_the_destination() {
    let world = World::new();
    let (a, b) = world.two_hosts();
    for (name, from_day, days, expected) in [("old", 0, -2, "Expired"), ("early", 2, 30, "NotValidYet")] {
        let mut request = Request::new(["host-a.example"]);
        (request.from_day, request.days) = (from_day, days);
        let directory = world.issue(name, &request);
        let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
        let (cert, key) = (path("client-cert.pem"), path("client-key.pem"));
        let ca = a.directory.join("ca-cert.pem");
        let own = ["-cert", &cert, "-key", &key, "-CAfile", ca.to_str().unwrap()];
        let error = with_openssl(&listen(&b), &own);
        assert!(
            error.contains("certificate of the source") && error.contains("both clocks"),
            "{expected}: {error}"
        );
    }
}

#[test]
fn a_destination_whose_certificate_is_replaced_between_connections_must_still_have_the_name() {
    let world = World::new();
    let (mut a, b) = world.two_hosts();
    a.hostname = Some("host-b.example".into());
    let listener = listen(&b);
    let (control, _there) = connected(&a, &listener);
    let again = || {
        std::thread::scope(|scope| {
            let accepted = scope.spawn(|| listener.accept().and_then(|there| there.authenticate(PATIENCE)));
            let dialled = control.dial_again(PATIENCE);
            (dialled.map(|_| ()), accepted.join().unwrap())
        })
    };
    world.issue("b", &Request::new(["host-c.example"]));
    let (dialled, accepted) = again();
    assert!(chain(&dialled.unwrap_err()).contains("host-b.example"));
    accepted.unwrap_err();
    world.issue("b", &Request::new(["host-b.example", "host-c.example"]));
    let (dialled, accepted) = again();
    dialled.unwrap();
    accepted.unwrap();
}

#[test]
fn a_handshake_that_stalls_is_given_up_on_both_sides() {
    let world = World::new();
    let (a, b) = world.two_hosts();
    let soon = Duration::from_millis(100);
    // A source that says nothing, and one that stops within a message.
    for words in [&b""[..], &[22, 3, 1, 2, 0, 1]] {
        let listener = listen(&b);
        let transport::Address::Tcp { port, .. } = listener.address() else { unreachable!() };
        let mut client = TcpStream::connect(("127.0.0.1", *port)).unwrap();
        client.write_all(words).unwrap();
        let error = listener.accept().unwrap().authenticate(soon).unwrap_err();
        assert!(chain(&error).contains("source did not finish"), "{error}");
        // Nothing is left of it.
        let _ = client.read(&mut [0]);
    }
    // A destination that accepts and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{}", silent.local_addr().unwrap()).parse().unwrap();
    let error = Connection::dial(&address, &Trust::Certified(a), soon).unwrap_err();
    assert!(chain(&error).contains("destination did not finish"), "{error}");
}

#[test]
fn a_handshake_that_is_shut_down_ends_at_once() {
    let world = World::new();
    let (_, b) = world.two_hosts();
    let listener = listen(&b);
    let transport::Address::Tcp { port, .. } = listener.address() else { unreachable!() };
    let _client = TcpStream::connect(("127.0.0.1", *port)).unwrap();
    let connection = listener.accept().unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| connection.authenticate(PATIENCE));
        connection.shutdown();
        assert!(matches!(waiting.join().unwrap(), Err(TransportError::Stopped)));
    });
}

#[test]
fn a_thousand_authorities_are_as_good_as_one() {
    let world = World::new();
    let (a, b) = world.two_hosts();
    let mut all = String::new();
    let one = std::fs::read_to_string(b.directory.join("ca-cert.pem")).unwrap();
    let others = world.path("others");
    for index in 0..1000 {
        let directory = others.join(index.to_string());
        Authority::init(&directory, &format!("An authority with a rather long name and the number {index}"))
            .unwrap();
        all += &std::fs::read_to_string(directory.join("ca-cert.pem")).unwrap();
    }
    std::fs::write(b.directory.join("ca-cert.pem"), all + &one).unwrap();
    connected(&a, &listen(&b));
}
