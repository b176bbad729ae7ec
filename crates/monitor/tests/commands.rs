//! What clients ask, and what they are told.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

#[expect(dead_code, reason = "each file of tests looks at a part of it")]
mod machine;
#[expect(dead_code, reason = "each file of tests looks at a part of it")]
mod support;

use std::time::Duration;

use address::Address;
use serde_json::{Value, json};
use support::{Bench, DEADLINE, eventually};
use whimbrel_monitor::{
    Client, ClientError, ErrorClass,
    types::{
        Compression, Digest, MigrationCapability, MigrationCapabilityStatus, MigrationParameters,
        MigrationStatus, RunState, VersionInfo,
    },
};

fn refusal(outcome: Result<Value, ClientError>) -> String {
    match outcome {
        Err(ClientError::Command { source, .. }) => source.desc,
        other => panic!("not refused: {other:?}"),
    }
}

fn set_capability(client: &mut Client, name: &str, state: bool) -> Result<Value, ClientError> {
    client.execute(
        "migrate-set-capabilities",
        json!({ "capabilities": [{ "capability": name, "state": state }] }),
    )
}

#[test]
fn a_client_learns_who_answers() {
    let bench = Bench::new();
    let mut client = bench.client();
    assert_eq!(client.version(), &VersionInfo::default());
    assert_eq!(client.query::<VersionInfo>("query-version", Value::Null).unwrap(), VersionInfo::default());
    assert_eq!(client.execute("query-name", Value::Null).unwrap(), json!({ "name": "toy" }));
    assert_eq!(client.execute("query-whimbrel-report", Value::Null).unwrap(), json!({ "schema": 1 }));
    let uuid = client.execute("query-uuid", Value::Null).unwrap();
    assert_eq!(uuid, json!({ "UUID": "2b1e5d2c-6f0a-4b7e-9d55-0d6a7ce4f0aa" }));
    let cpus = client.execute("query-cpus-fast", Value::Null).unwrap();
    assert_eq!(cpus[1]["cpu-index"], 1);
    assert_eq!(cpus[1]["target"], "x86_64");
    let threads = client.execute("query-whimbrel-threads", Value::Null).unwrap();
    assert_eq!(threads, json!([{ "name": "mig-send-0", "thread-id": 7 }]));
    assert_eq!(client.human("info threads").unwrap(), "  mig-send-0: thread_id=7\n");
}

#[test]
fn disks_are_counted_by_the_names_of_qemu() {
    let bench = Bench::new();
    let mut client = bench.client();
    for arguments in [Value::Null, json!({ "query-nodes": true })] {
        let disks = client.execute("query-blockstats", arguments).unwrap();
        assert_eq!(disks[0]["device"], "disk0");
        let stats = &disks[0]["stats"];
        // What clients of QEMU read without looking whether it is there.
        for name in [
            "rd_bytes",
            "wr_bytes",
            "rd_operations",
            "wr_operations",
            "flush_operations",
            "wr_highest_offset",
        ] {
            assert!(stats[name].is_u64(), "{name}: {stats}");
        }
        assert_eq!((&stats["rd_bytes"], &stats["failed_wr_operations"]), (&json!(512), &json!(1)));
        assert_eq!(stats["timed_stats"], json!([]));
    }
    client.execute("query-blockstats", json!({ "query-nodes": "yes" })).unwrap_err();
    assert!(client.human("info blockstats").unwrap().starts_with("disk0: rd_bytes=512 wr_bytes=0 "));
}

#[test]
fn stop_and_cont_change_the_status_and_say_so() {
    let bench = Bench::new();
    let mut client = bench.client();
    client.execute("stop", Value::Null).unwrap();
    assert_eq!(
        client.execute("query-status", Value::Null).unwrap(),
        json!({ "running": false, "status": "paused" })
    );
    client.execute("cont", Value::Null).unwrap();
    assert_eq!(
        client.execute("query-status", Value::Null).unwrap(),
        json!({ "running": true, "status": "running" })
    );
    let names = [(); 2].map(|()| client.events().next(DEADLINE).unwrap().event);
    assert_eq!(names, ["STOP", "RESUME"]);
}

#[test]
fn an_event_comes_before_the_reply_of_the_command_that_caused_it() {
    let bench = Bench::new();
    let mut plain = bench.plain();
    plain.send(r#"{"execute":"stop","id":1}"#);
    assert_eq!(plain.line()["event"], "STOP");
    assert_eq!(plain.line(), json!({ "return": {}, "id": 1 }));
}

#[test]
fn events_reach_every_client_but_those_before_their_handshake() {
    let bench = Bench::new();
    let clients = [bench.client(), bench.client(), bench.client()];
    let mut greeted = bench.greeted();
    bench.machine.state().status = RunState::Paused;
    bench.client().execute("cont", Value::Null).unwrap();
    for client in &clients {
        let event = client.events().wait_for("RESUME", DEADLINE).unwrap();
        assert!(
            event.timestamp.seconds > 1_600_000_000 && (0..1_000_000).contains(&event.timestamp.microseconds)
        );
    }
    greeted.send(r#"{"execute":"qmp_capabilities"}"#);
    assert_eq!(greeted.line(), json!({ "return": {} }));
}

#[test]
fn reset_powerdown_and_quit_are_announced_with_their_reason() {
    let bench = Bench::new();
    let mut client = bench.client();
    client.execute("system_reset", Value::Null).unwrap();
    client.execute("system_powerdown", Value::Null).unwrap();
    client.execute("quit", Value::Null).unwrap();
    let events = [(); 3].map(|()| client.events().next(DEADLINE).unwrap());
    assert_eq!(events[0].event, "RESET");
    assert_eq!(events[0].data, Some(json!({ "guest": false, "reason": "host-qmp-system-reset" })));
    assert_eq!((events[1].event.as_str(), &events[1].data), ("POWERDOWN", &None));
    assert_eq!(events[2].event, "SHUTDOWN");
    assert_eq!(events[2].data, Some(json!({ "guest": false, "reason": "host-qmp-quit" })));
}

#[test]
fn an_argument_that_does_not_exist_is_named_by_every_command() {
    let bench = Bench::new();
    let mut client = bench.client();
    let commands = client.execute("query-commands", Value::Null).unwrap();
    let names: Vec<&str> = commands.as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert!(names.len() > 20);
    for name in names.into_iter().filter(|name| *name != "qmp_capabilities") {
        let arguments = json!({
            "zork": 1, "uri": "tcp:a:1", "value": 1, "dirty-rate": 1, "paging": false, "protocol": "file:/a", "calc-time": 1, "keys": [], "state": "none", "capabilities": [], "command-line": ""
        });
        let desc = refusal(client.execute(name, arguments));
        assert!(desc.ends_with("is unexpected"), "{name}: {desc}");
    }
    assert!(!bench.machine.state().quitting, "a command was done although it was refused");
    assert_eq!(bench.machine.state().status, RunState::Running);
}

#[test]
fn arguments_that_are_missing_or_of_another_type_are_named() {
    let bench = Bench::new();
    let mut client = bench.client();
    let mut refused = |command: &str, arguments: Value| refusal(client.execute(command, arguments));
    assert_eq!(refused("balloon", json!({})), "Parameter 'value' is missing");
    assert_eq!(
        refused("balloon", json!({ "value": "x" })),
        "Invalid parameter type for 'value', expected: integer"
    );
    assert_eq!(
        refused("balloon", json!({ "value": 1.5 })),
        "Invalid parameter type for 'value', expected: integer"
    );
    assert_eq!(
        refused("balloon", json!({ "value": -1 })),
        "Parameter 'value' expects a size of 1 byte or more"
    );
    assert_eq!(refused("migrate", json!({})), "Parameter 'uri' is missing");
    assert_eq!(
        refused(
            "migrate-set-capabilities",
            json!({ "capabilities": [{ "capability": "events", "state": 1 }] })
        ),
        "Invalid parameter type for 'capabilities[0].state', expected: boolean"
    );
    assert_eq!(
        refused(
            "migrate-set-capabilities",
            json!({ "capabilities": [{ "capability": "zork", "state": true }] })
        ),
        "Parameter 'capability' does not accept value 'zork'"
    );
    assert_eq!(
        refused("send-key", json!({ "keys": [{ "type": "qcode" }] })),
        "Parameter 'keys[0].data' is missing"
    );
    assert_eq!(
        refused("migrate-continue", json!({ "state": "zork" })),
        "Parameter 'state' does not accept value 'zork'"
    );
}

#[test]
fn an_unknown_command_is_an_error_of_its_own_class() {
    let bench = Bench::new();
    match bench.client().execute("zork", Value::Null) {
        Err(ClientError::Command { source, .. }) => {
            assert_eq!(source.class, ErrorClass::CommandNotFound);
            assert_eq!(source.desc, "The command zork has not been found");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn parameters_that_are_set_are_returned_and_the_others_stay() {
    let bench = Bench::new();
    let mut client = bench.client();
    let change = json!({
        "max-bandwidth": u64::MAX, "downtime-limit": 50, "multifd-channels": 64, "announce-rounds": 0,
        "avail-switchover-bandwidth": 7, "tls-creds": "", "tls-hostname": null,
        "whimbrel-digest": "transfer", "multifd-compression": "zstd", "xbzrle-cache-size": 4096
    });
    client.execute("migrate-set-parameters", change).unwrap();
    let got: MigrationParameters = client.query("query-migrate-parameters", Value::Null).unwrap();
    let mut expected = MigrationParameters::new(64);
    expected.max_bandwidth = u64::MAX;
    expected.downtime_limit = 50;
    expected.announce.rounds = 0;
    expected.avail_switchover_bandwidth = 7;
    expected.whimbrel_digest = Digest::Transfer;
    expected.encoding.multifd_compression = Compression::Zstd;
    expected.encoding.xbzrle_cache_size = 4096;
    assert_eq!(got, expected);
    for (set, digest) in
        [(json!(true), Digest::Full), (json!(false), Digest::Off), (json!("transfer"), Digest::Transfer)]
    {
        client.execute("migrate-set-parameters", json!({ "whimbrel-digest": set })).unwrap();
        let got: MigrationParameters = client.query("query-migrate-parameters", Value::Null).unwrap();
        assert_eq!(got.whimbrel_digest, digest);
    }
    let wrong = client.execute("migrate-set-parameters", json!({ "whimbrel-digest": "some" }));
    assert!(wrong.unwrap_err().to_string().contains("migrate-set-parameters"));
}

#[test]
fn parameters_out_of_range_or_unknown_are_named_and_nothing_is_set() {
    let bench = Bench::new();
    let mut client = bench.client();
    let cases = [
        (json!({ "downtime-limit": 2_000_001 }), "'downtime-limit' expects a value between 0 and 2000000"),
        (json!({ "downtime-limit": -1 }), "for 'downtime-limit', expected: non-negative integer"),
        (json!({ "multifd-channels": 0 }), "'multifd-channels' expects a value between 1 and 64"),
        (json!({ "multifd-channels": 65 }), "'multifd-channels' expects a value between 1 and 64"),
        (json!({ "announce-step": 0 }), "'announce-step' expects a value between 1 and 10000"),
        (json!({ "max-bandwidth": "1G" }), "for 'max-bandwidth', expected: non-negative integer"),
        (json!({ "tls-creds": 7 }), "tls-creds"),
        (json!({ "xbzrle-cache-size": 1 }), "'xbzrle-cache-size' expects a value between 4096 and"),
        (json!({ "multifd-zstd-level": 21 }), "'multifd-zstd-level' expects a value between 0 and 20"),
        (json!({ "multifd-compression": "zlib" }), "expects 'none', 'lz4' or 'zstd', not 'zlib'"),
        (json!({ "whimbrel-compression": "on" }), "expects 'auto' or 'off', not 'on'"),
        (json!({ "multifd-zlib-level": 1 }), "'multifd-zlib-level' of QEMU's is not supported"),
        (json!({ "zork": 1, "downtime-limit": 1 }), "Parameter 'zork' is unexpected"),
    ];
    for (change, expected) in cases {
        let desc = refusal(client.execute("migrate-set-parameters", change.clone()));
        assert!(desc.contains(expected), "{change}: {desc}");
    }
    assert_eq!(bench.machine.state().parameters, MigrationParameters::new(2));
}

#[test]
fn capabilities_are_all_listed_and_the_machine_may_refuse_some() {
    let bench = Bench::new();
    let mut client = bench.client();
    set_capability(&mut client, "pause-before-switchover", true).unwrap();
    assert_eq!(refusal(set_capability(&mut client, "x-colo", true)), "Capability x-colo is not supported");
    let states: Vec<MigrationCapabilityStatus> =
        client.query("query-migrate-capabilities", Value::Null).unwrap();
    assert_eq!(states.len(), MigrationCapability::ALL.len());
    let on: Vec<_> = states.into_iter().filter(|c| c.state).map(|c| c.capability.to_string()).collect();
    assert_eq!(on, ["pause-before-switchover"]);
}

#[test]
fn an_address_may_come_as_uri_or_as_a_channel() {
    let tcp = Address::Tcp { host: "::1".to_owned(), port: 4444 };
    let unix = Address::Unix("/run/m".into());
    let channel = |addr: Value| json!({ "channels": [{ "channel-type": "main", "addr": addr }] });
    let inet = json!({ "transport": "socket", "type": "inet", "host": "::1", "port": "4444" });
    let path = json!({ "transport": "socket", "type": "unix", "path": "/run/m" });
    let cases = [
        (json!({ "uri": "tcp:[::1]:4444" }), &tcp),
        (json!({ "uri": "unix:/run/m" }), &unix),
        (channel(inet), &tcp),
        (channel(path), &unix),
    ];
    for (arguments, expected) in cases {
        let bench = Bench::new();
        bench.client().execute("migrate-incoming", arguments).unwrap();
        assert_eq!(bench.machine.state().incoming.as_ref(), Some(expected));
    }
}

#[test]
fn an_address_that_is_none_is_refused_with_what_to_write() {
    let bench = Bench::new();
    let mut client = bench.client();
    let mut refused = |uri: &str| refusal(client.execute("migrate", json!({ "uri": uri })));
    assert!(refused("zork").contains("expects a valid migration protocol"));
    assert!(refused("exec:cat").contains("neither tcp: nor unix:"));
    assert!(refused("tcp:").contains("has no port"));
    assert!(refused("tcp:::1:5").contains("IPv6 address without brackets"));
    assert!(refused("tcp:a:65536").contains("'65536' is not a number from 0 to 65535"));
    assert!(refused("unix:").contains("1 to 107 bytes"));
    assert!(refused(&format!("unix:/{}", "x".repeat(107))).contains("1 to 107 bytes"));
    let two = json!({ "channels": [{}, {}] });
    assert!(refusal(client.execute("migrate", two)).contains("expects one channel, not 2"));
    let both = json!({ "uri": "tcp:a:1", "channels": [] });
    assert!(refusal(client.execute("migrate", both)).contains("exclude each other"));
}

#[test]
fn who_has_the_machine_is_decided_by_those_who_know_the_risk() {
    let bench = Bench::new();
    let mut client = bench.client();
    for (verb, line) in [("take-back", "take_back"), ("let-go", "let_go")] {
        let command = format!("whimbrel-{verb}");
        bench.machine.state().undecided = false;
        assert_eq!(refusal(client.execute(&command, Value::Null)), "There is nothing to decide");
        assert_eq!(client.human(line).unwrap(), "Error: There is nothing to decide\n");
        bench.machine.state().undecided = true;
        for arguments in [Value::Null, json!({ "force": false })] {
            let refused = refusal(client.execute(&command, arguments));
            assert!(refused.contains("Be sure") && refused.contains("\"force\": true"), "{refused}");
        }
        assert!(client.human(line).unwrap().contains("Be sure"));
        assert_eq!(bench.machine.state().decided, None);
        client.execute(&command, json!({ "force": true })).unwrap();
        assert_eq!(bench.machine.state().decided.take(), Some(verb));
        assert_eq!(client.human(&format!("{line} -f")).unwrap(), "");
        assert_eq!(bench.machine.state().decided.take(), Some(verb));
    }
}

#[test]
fn a_migration_is_told_by_events_if_they_are_switched_on() {
    let bench = Bench::new();
    let mut client = bench.client();
    set_capability(&mut client, "events", true).unwrap();
    client.execute("migrate", json!({ "uri": "tcp:127.0.0.1:4444" })).unwrap();
    let mut told = Vec::new();
    while told.last().is_none_or(|last| last != "completed") {
        let event = client.events().next(DEADLINE).unwrap();
        told.push(match (event.event.as_str(), event.data.unwrap_or_default()) {
            ("MIGRATION", data) => data["status"].as_str().unwrap().to_owned(),
            (name, data) => format!("{name} {}", data["pass"]).replace(" null", ""),
        });
    }
    let expected = [
        "setup",
        "MIGRATION_PASS 1",
        "active",
        "MIGRATION_PASS 2",
        "MIGRATION_PASS 3",
        "STOP",
        "device",
        "completed",
    ];
    assert_eq!(told, expected);
    let info = client.query_migrate().unwrap();
    assert_eq!((info.status, info.downtime), (Some(MigrationStatus::Completed), Some(1)));
    assert_eq!(info.whimbrel.unwrap().rounds.len(), 3);
}

#[test]
fn a_migration_without_the_capability_events_is_silent_but_for_stop() {
    let bench = Bench::new();
    let mut client = bench.client();
    client.execute("migrate", json!({ "uri": "unix:/x" })).unwrap();
    assert_eq!(client.events().next(DEADLINE).unwrap().event, "STOP");
    eventually("the migration completes", || {
        client.query_migrate().unwrap().status == Some(MigrationStatus::Completed)
    });
    assert_eq!(client.events().next(Duration::ZERO), None);
}

#[test]
fn commands_in_the_wrong_state_are_refused_and_cancel_lets_the_source_run_on() {
    let bench = Bench::new();
    let mut client = bench.client();
    let state = json!({ "state": "pre-switchover" });
    assert!(
        refusal(client.execute("migrate-continue", state.clone())).contains("not in expected state: none")
    );
    set_capability(&mut client, "pause-before-switchover", true).unwrap();
    client.execute("migrate", json!({ "uri": "unix:/x" })).unwrap();
    assert!(refusal(client.execute("migrate", json!({ "uri": "unix:/x" }))).contains("in progress"));
    eventually("the migration pauses", || {
        client.query_migrate().unwrap().status == Some(MigrationStatus::PreSwitchover)
    });
    client.execute("migrate_cancel", Value::Null).unwrap();
    eventually("it is cancelled", || {
        client.query_migrate().unwrap().status == Some(MigrationStatus::Cancelled)
    });
    assert!(client.query_status().unwrap().running);
    client.execute("migrate", json!({ "uri": "unix:/x" })).unwrap();
    eventually("it continues", || client.execute("migrate-continue", state.clone()).is_ok());
    eventually("it completes", || client.query_migrate().unwrap().status == Some(MigrationStatus::Completed));
}

#[test]
fn keys_arrive_as_linux_codes_in_order() {
    let bench = Bench::new();
    let mut client = bench.client();
    let keys = ["ctrl", "alt", "delete"].map(|name| json!({ "type": "qcode", "data": name }));
    client.execute("send-key", json!({ "keys": keys, "hold-time": 10 })).unwrap();
    client.execute("send-key", json!({ "keys": [{ "type": "number", "data": 30 }] })).unwrap();
    client.human("sendkey shift-a 5").unwrap();
    let state = bench.machine.state();
    assert_eq!(
        (state.keys.as_slice(), state.held),
        ([29, 56, 111, 30, 42, 30].as_slice(), Duration::from_millis(5))
    );
}

#[test]
fn announce_self_takes_what_is_not_given_from_the_parameters() {
    let bench = Bench::new();
    let mut client = bench.client();
    client.execute("migrate-set-parameters", json!({ "announce-max": 99 })).unwrap();
    client.execute("announce-self", json!({ "rounds": 1 })).unwrap();
    let announced = bench.machine.state().announced.unwrap();
    assert_eq!((announced.initial, announced.max, announced.rounds, announced.step), (50, 99, 1, 100));
    assert!(refusal(client.execute("announce-self", json!({ "step": 0 }))).contains("between 1 and 10000"));
}
