//! Names of places, and who has to find out what is behind them.

use std::{
    net::{TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use monitor::types::{RunState, SocketAddress};
use serde_json::{Value, json};

use crate::harness::{Lab, Spec, holds, run_to_end, skipped};

#[test]
fn localhost_is_listened_on_at_all_of_its_addresses() {
    let Some(lab) = Lab::new() else { return };
    let vacancy = lab.vacancy(&Spec::calm());
    vacancy.command("migrate-incoming", json!({ "uri": "tcp:localhost.:0" }));
    let addresses = vacancy.query_migrate().socket_address.unwrap();
    let mut expected: Vec<_> =
        std::net::ToSocketAddrs::to_socket_addrs(&("localhost", 0)).unwrap().map(|it| it.ip()).collect();
    expected.sort();
    expected.dedup();
    expected.retain(|ip| std::net::TcpListener::bind((*ip, 0)).is_ok());
    assert_eq!(addresses.len(), expected.len(), "{addresses:?}");
    for address in addresses {
        let SocketAddress::Inet { host, port } = address else { panic!("{address:?}") };
        TcpStream::connect((host.as_str(), port.parse().unwrap())).unwrap();
    }
}

#[test]
fn a_name_server_that_does_not_answer_keeps_nobody_waiting_but_who_asked() {
    let Some(lab) = Lab::new() else { return };
    // It hears every question.
    let Ok(silent) = UdpSocket::bind("127.0.0.9:53") else { return skipped("a name server cannot be made") };
    silent.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let resolver = lab.file("resolv.conf", b"nameserver 127.0.0.9\noptions timeout:30 attempts:1\n");
    let script = format!("mount --bind {} /etc/resolv.conf && exec \"$@\"", resolver.display());
    let prefix = ["unshare", "-m", "sh", "-c", &script, "sh"].map(str::to_owned);
    let tried =
        std::process::Command::new("unshare").args(["-m", "sh", "-c", &script, "sh", "true"]).status();
    if !tried.is_ok_and(|tried| tried.success()) {
        return skipped("name servers cannot be set for one process");
    }
    let vacancy = lab.vacancy(&Spec::calm().prefix(&prefix).with(&["--insecure"]));
    let mut asks = vacancy.another_client();
    std::thread::scope(|scope| {
        let asked = scope.spawn(move || {
            asks.execute("migrate-incoming", json!({ "uri": "tcp:nowhere.example.org:0" }))
                .map_err(|error| format!("{error:?}"))
                .unwrap_err()
        });
        let mut bytes = [0; 512];
        holds("the name server is asked", || silent.recv(&mut bytes).is_ok());
        for _ in 0..20 {
            let began = Instant::now();
            assert_eq!(vacancy.run_state(), RunState::Inmigrate);
            vacancy.query_migrate();
            vacancy.command("query-migrate-parameters", Value::Null);
            assert!(!asked.is_finished(), "the others were answered meanwhile, in {:?}", began.elapsed());
        }
        let said = asked.join().unwrap();
        assert!(said.contains("no answer within 10 s"), "{said}");
    });
    // What is known needs no name server.
    vacancy.command("migrate-incoming", json!({ "uri": "tcp:127.0.0.1:0" }));
}

#[test]
fn a_tap_that_is_not_there_is_not_made() {
    let Some(lab) = Lab::new() else { return };
    let flags = lab.flags(&Spec::calm().flag("--net", "tap=no-such-tap0"));
    let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    flags.extend(["--serial", "none"]);
    let output = run_to_end(&flags);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("There is no interface 'no-such-tap0'"), "{said}");
}
