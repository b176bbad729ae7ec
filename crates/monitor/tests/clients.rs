//! Clients that send rubbish, too much, too early, or do not read. After each, the monitor answers.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

mod machine;
mod support;

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use support::{Bench, DEADLINE, eventually};
use whimbrel_monitor::{Client, ClientError, MAX_CLIENTS, types::ShutdownCause};

/// Bytes of memory that this process holds.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn nothing_is_done_before_the_handshake() {
    let bench = Bench::new();
    let mut plain = bench.greeted();
    plain.send(r#"{"execute":"quit","id":1}"#);
    let reply = plain.line();
    assert_eq!(reply["error"]["class"], "CommandNotFound");
    assert_eq!(reply["error"]["desc"], "Expecting capabilities negotiation with 'qmp_capabilities'");
    assert!(
        plain
            .error(r#"{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}"#)
            .contains("'oob' is not offered")
    );
    assert!(!bench.machine.state().quitting);
    plain.send(r#"{"execute":"qmp_capabilities","arguments":{"enable":[]}}"#);
    assert_eq!(plain.line(), json!({ "return": {} }));
    let again = "Capabilities negotiation is already complete, command ignored";
    assert_eq!(plain.error(r#"{"execute":"qmp_capabilities"}"#), again);
    plain.assert_works();
}

#[test]
fn broken_json_is_an_error_and_the_connection_goes_on() {
    let bench = Bench::new();
    let mut plain = bench.plain();
    for broken in [
        "zork\n",
        "}\n",
        "\u{ff}\n",
        "{\"execute\":\"stop\", x}",
        "{\"execute\":\"stop\"\n{\"execute\":\"no such thing\"\n{}",
        "{\"execute\":\"unterminated\n",
        "{\"execute\":\"stop\"]",
        "{\"execute\":\"query-name\",\"execute\":\"stop\"}",
        "[1,2",
    ] {
        plain.send(broken);
        plain.send("\n{\"execute\":\"query-name\",\"id\":\"works\"}");
        let mut errors = 0;
        loop {
            let reply = plain.line();
            if reply["id"] == "works" {
                break;
            }
            assert_eq!(reply["error"]["class"], "GenericError", "{broken:?}: {reply}");
            errors += 1;
        }
        assert!(errors >= 1, "{broken:?} was taken");
    }
    assert_eq!(bench.machine.state().status, whimbrel_monitor::types::RunState::Running);
}

#[test]
fn json_that_is_no_request_is_told_in_qemus_words() {
    let bench = Bench::new();
    let mut plain = bench.plain();
    assert_eq!(plain.error("[1]"), "QMP input must be a JSON object");
    assert_eq!(plain.error("\"text\""), "QMP input must be a JSON object");
    assert_eq!(plain.error("{}"), "QMP input lacks member 'execute'");
    assert_eq!(plain.error(r#"{"execute":5}"#), "QMP input member 'execute' must be a string");
    assert_eq!(plain.error(r#"{"execute":"stop","foo":1}"#), "QMP input member 'foo' is unexpected");
    assert_eq!(
        plain.error(r#"{"execute":"stop","arguments":3}"#),
        "QMP input member 'arguments' must be an object"
    );
    assert_eq!(plain.error(r#"{"exec-oob":"migrate-pause"}"#), "QMP input member 'exec-oob' is unexpected");
    plain.send(r#"{"execute":"zork","id":{"a":[1]}}"#);
    assert_eq!(plain.line()["id"], json!({ "a": [1] }));
    plain.assert_works();
}

#[test]
fn requests_need_no_newline_and_may_share_a_line_or_fill_several() {
    let bench = Bench::new();
    let mut plain = bench.plain();
    plain.send(
        r#"{"execute":"query-name","id":1}{"execute":"query-name","id":2} {"execute":"query-name","id":3}"#,
    );
    plain.send("{\n  \"execute\": \"query-name\",\n  \"arguments\":\n  {},\n  \"id\": 4\n}\r\n");
    for byte in br#"{"execute":"query-name","id":5}"# {
        plain.send([*byte]);
    }
    for id in 1..=5 {
        assert_eq!(plain.line()["id"], id);
    }
}

#[test]
fn a_line_of_100_mb_is_an_error_and_is_not_kept() {
    let bench = Bench::new();
    for opening in ["{\"execute\":\"", "[0,", "zork"] {
        let mut plain = bench.plain();
        let before = resident();
        let chunk = vec![b'0'; 1 << 16];
        plain.send(opening);
        let mut most = 0;
        for _ in 0..1600 {
            plain.send(&chunk);
            most = most.max(resident());
        }
        assert!(most.saturating_sub(before) < 16 << 20, "grew by {} bytes", most - before);
        assert!(plain.error("\n").contains("longer than 1048576 bytes"));
        plain.assert_works();
    }
}

#[test]
fn values_in_each_other_without_end_are_an_error() {
    let bench = Bench::new();
    let mut plain = bench.plain();
    assert!(plain.error("[".repeat(200_000) + "\n").contains("nesting depth limit of 64 exceeded"));
    plain.assert_works();
    let deep = format!("{{\"execute\":\"query-name\",\"id\":{}{}}}", "[".repeat(70), "]".repeat(70));
    assert!(plain.error(deep).contains("nesting depth"));
    plain.assert_works();
    let fits = format!("{{\"execute\":\"query-name\",\"id\":{}{}}}", "[".repeat(63), "]".repeat(63));
    plain.send(fits);
    assert_eq!(plain.line()["return"]["name"], "toy");
}

#[test]
fn a_client_that_does_not_read_events_is_dropped_and_holds_nobody_up() {
    let bench = Bench::new();
    let mut lazy = bench.plain();
    let mut busy = bench.client();
    let listened = busy.events();
    let before = resident();
    // 100 bytes each: far more than a socket and the outbox together hold. He who reads misses nothing.
    let (bursts, burst) = (600, 100);
    for _ in 0..bursts {
        for _ in 0..burst {
            bench.events.reset(ShutdownCause::GuestReset);
        }
        for _ in 0..burst {
            assert_eq!(listened.next(DEADLINE).unwrap().event, "RESET");
        }
    }
    assert!(resident().saturating_sub(before) < 16 << 20);
    assert_eq!(busy.execute("query-name", Value::Null).unwrap(), json!({ "name": "toy" }));
    // The lazy one finds what fitted, and then the end, in the middle of a line or not.
    let mut all = Vec::new();
    let _ = lazy.reader.read_to_end(&mut all);
    assert!(all.len() < bursts * burst * 100, "nothing was dropped");
    bench.plain().assert_works();
}

#[test]
fn a_client_that_sends_commands_and_reads_no_reply_has_to_wait_and_loses_nothing() {
    let bench = Bench::new();
    let plain = bench.plain();
    let before = resident();
    let mut sender = plain.stream().try_clone().unwrap();
    sender.set_nonblocking(true).unwrap();
    // Until its own socket is full: the server has stopped reading.
    let request = format!("{}\n", json!({ "execute": "query-commands" }));
    let (mut sent, mut stuck) = (0, Instant::now());
    while stuck.elapsed() < Duration::from_millis(300) {
        match sender.write(&request.as_bytes()[sent % request.len()..]) {
            Ok(count) => (sent, stuck) = (sent + count, Instant::now()),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
        std::thread::yield_now();
    }
    assert!(resident().saturating_sub(before) < 8 << 20);
    bench.plain().assert_works();
    let mut plain = plain;
    plain.stream().set_nonblocking(false).unwrap();
    for _ in 0..sent / request.len() {
        assert!(plain.line()["return"].is_array());
    }
}

#[test]
fn a_hundred_quick_connections_leave_the_monitor_as_it_was() {
    let bench = Bench::new();
    for turn in 0..100 {
        let stream = UnixStream::connect(&bench.path).unwrap();
        if turn % 2 == 0 {
            let _ = (&stream).write_all(b"{\"execute\":");
        }
        if turn % 3 == 0 {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
    eventually("a client is served", || Client::connect(&bench.path, DEADLINE).is_ok());
    bench.plain().assert_works();
}

#[test]
fn a_client_who_closes_his_side_gets_his_replies_and_then_the_end() {
    let bench = Bench::new();
    let mut plain = bench.unread();
    plain.send("{\"execute\":\"qmp_capabilities\"}{\"execute\":\"query-name\"}\n{\"execute\":");
    plain.stream().shutdown(Shutdown::Write).unwrap();
    assert!(plain.line()["QMP"].is_object());
    assert_eq!(plain.line(), json!({ "return": {} }));
    assert_eq!(plain.line()["return"]["name"], "toy");
    assert!(plain.line()["error"]["desc"].as_str().unwrap().starts_with("JSON parse error"));
    assert_eq!(plain.line(), Value::Null);
}

#[test]
fn one_client_too_many_is_told_so_and_gets_in_when_another_leaves() {
    let bench = Bench::new();
    let mut clients: Vec<Client> = (0..MAX_CLIENTS).map(|_| bench.client()).collect();
    match Client::connect(&bench.path, DEADLINE) {
        Err(ClientError::Command { source, .. }) => {
            assert!(source.desc.contains("16 clients, the most it takes"));
        }
        other => panic!("{other:?}"),
    }
    for client in &mut clients {
        client.execute("query-name", Value::Null).unwrap();
    }
    clients.pop();
    bench.client().execute("query-name", Value::Null).unwrap();
}

#[test]
fn the_reply_to_quit_arrives_before_the_server_ends() {
    for _ in 0..20 {
        let mut bench = Bench::new();
        let mut client = bench.client();
        let (server, machine) = (bench.server.take().unwrap(), bench.machine.clone());
        let ending = std::thread::spawn(move || {
            assert!(machine.wait_for_quit(DEADLINE));
            server.shutdown();
        });
        assert_eq!(client.execute("quit", Value::Null).unwrap(), json!({}));
        assert!(client.events().wait_for("SHUTDOWN", DEADLINE).is_some());
        ending.join().unwrap();
        eventually("the connection is closed", || client.events().is_closed());
        assert!(matches!(client.execute("query-name", Value::Null), Err(ClientError::Closed)));
    }
}

#[test]
fn a_client_that_does_not_read_holds_the_end_up_for_a_second_at_most() {
    let mut bench = Bench::new();
    let mut lazy = bench.plain();
    for _ in 0..200 {
        lazy.send(r#"{"execute":"query-commands"}"#);
    }
    let begun = Instant::now();
    bench.server.take().unwrap().shutdown();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn a_server_that_is_silent_is_a_time_out_and_not_a_hang() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("qmp");
    let silent = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let error = Client::connect(&path, Duration::from_millis(50)).unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error:?}");
    drop(silent);
    assert!(matches!(Client::connect(&path, DEADLINE), Err(ClientError::Connect { .. })));
}
