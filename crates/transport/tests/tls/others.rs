//! Other programs: clients that come, and certificates that they make.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use transport::{Accept, Tls};

use crate::{PATIENCE, World, chain, connected, destination, listen};

#[test]
fn gnutls_with_a_certificate_of_the_list_is_let_in_and_without_one_is_not() {
    let world = World::new();
    let (a, b) = world.two_hosts();
    let listener = listen(&b);
    let transport::Address::Tcp { port, .. } = listener.address() else { unreachable!() };
    let path = |name: &str| a.directory.join(name).display().to_string();
    let own = [
        format!("--x509certfile={}", path("client-cert.pem")),
        format!("--x509keyfile={}", path("client-key.pem")),
    ];
    for (own, expected) in [(&own[..], ""), (&[], "shows none")] {
        let mut client = Command::new("gnutls-cli")
            .args(["127.0.0.1", &format!("--port={port}"), &format!("--x509cafile={}", path("ca-cert.pem"))])
            .args(own)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let said = listener.accept().unwrap().authenticate(PATIENCE);
        let _ = client.kill();
        client.wait().unwrap();
        let said = said.err().map(|error| chain(&error)).unwrap_or_default();
        assert!(said.contains(expected) && said.is_empty() == expected.is_empty(), "{said}");
    }
}

#[test]
fn certificates_that_openssl_has_made_are_as_good() {
    let world = World::new();
    let ca = world.path("openssl-ca");
    fs::create_dir(&ca).unwrap();
    run(
        &ca,
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=CA -days 30 -keyout ca-key.pem -out ca-cert.pem",
    );
    let make = |name: &str, alternative: &str| {
        let directory = world.path(name);
        fs::create_dir(&directory).unwrap();
        for (side, usage) in [("server", "serverAuth"), ("client", "clientAuth")] {
            let extensions = format!("subjectAltName={alternative}\nextendedKeyUsage={usage}\n");
            fs::write(directory.join("extensions"), extensions).unwrap();
            run(
                &directory,
                &format!(
                    "openssl req -newkey rsa:2048 -nodes -subj /O=Example/CN={name} -keyout {side}-key.pem -out {side}.csr"
                ),
            );
            run(
                &directory,
                &format!(
                    "openssl x509 -req -in {side}.csr -CA ../openssl-ca/ca-cert.pem -CAkey ../openssl-ca/ca-key.pem -CAcreateserial -days 20 -extfile extensions -out {side}-cert.pem"
                ),
            );
        }
        fs::copy(ca.join("ca-cert.pem"), directory.join("ca-cert.pem")).unwrap();
        directory
    };
    let a = Tls::new(make("host-a", "DNS:host-a.example,URI:spiffe://example/a"));
    // The subject is written with its most specific part first, as QEMU has it.
    for who in ["host-a.example", "uri:spiffe://example/*", "CN=host-a,O=Example"] {
        let b = world.path("host-b");
        let b = if b.exists() { b } else { make("host-b", "IP:127.0.0.1") };
        connected(&a, &listen(&destination(&b, who)));
    }
}

#[test]
fn certificates_that_certtool_has_made_are_as_good() {
    let world = World::new();
    let ca = world.path("certtool-ca");
    fs::create_dir(&ca).unwrap();
    fs::write(ca.join("template"), "cn = CA\nca\ncert_signing_key\nexpiration_days = 30\n").unwrap();
    run(&ca, "certtool --generate-privkey --key-type ed25519 --outfile ca-key.pem");
    run(
        &ca,
        "certtool --generate-self-signed --load-privkey ca-key.pem --template template --outfile ca-cert.pem",
    );
    let make = |name: &str, alternative: &str| {
        let directory = world.path(name);
        fs::create_dir(&directory).unwrap();
        for (side, usage) in [("server", "tls_www_server"), ("client", "tls_www_client")] {
            let template =
                format!("cn = {name}\n{alternative}\n{usage}\nsigning_key\nexpiration_days = 20\n");
            fs::write(directory.join("template"), template).unwrap();
            run(
                &directory,
                &format!(
                    "certtool --generate-privkey --key-type ecdsa --curve secp256r1 --outfile {side}-key.pem"
                ),
            );
            run(
                &directory,
                &format!(
                    "certtool --generate-certificate --load-privkey {side}-key.pem --load-ca-certificate ../certtool-ca/ca-cert.pem --load-ca-privkey ../certtool-ca/ca-key.pem --template template --outfile {side}-cert.pem"
                ),
            );
        }
        fs::copy(ca.join("ca-cert.pem"), directory.join("ca-cert.pem")).unwrap();
        directory
    };
    let a = Tls::new(make("host-a", "dns_name = host-a.example"));
    let b = make("host-b", "ip_address = 127.0.0.1");
    connected(&a, &listen(&destination(&b, "host-a.example")));
}

/// Runs a program in a directory; what it says is shown if it fails.
fn run(directory: &Path, command: &str) {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}
