//! Lines of the human monitor, through `human-monitor-command`.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

#[expect(dead_code, reason = "each file of tests looks at a part of it")]
mod machine;
#[expect(dead_code, reason = "each file of tests looks at a part of it")]
mod support;

use address::Address;
use serde_json::json;
use support::{Bench, eventually};
use whimbrel_monitor::types::{Compression, Digest, MigrationCapability, MigrationStatus, RunState};

#[test]
fn lines_do_what_the_commands_do() {
    let bench = Bench::new();
    let mut client = bench.client();
    for line in [
        "stop",
        "migrate_set_parameter max-bandwidth 100M",
        "migrate_set_parameter avail-switchover-bandwidth 2",
        "migrate_set_parameter downtime-limit 7",
        "migrate_set_parameter whimbrel-digest on",
        "migrate_set_parameter multifd-compression lz4",
        "migrate_set_parameter multifd-zstd-level 20",
        "migrate_set_parameter xbzrle-cache-size 1G",
        "migrate_set_capability events on",
        "migrate_incoming tcp:[::]:4444",
        "balloon 512",
        "announce_self",
    ] {
        assert_eq!(client.human(line).unwrap(), "", "{line}");
    }
    let state = bench.machine.state();
    assert_eq!(state.status, RunState::Paused);
    assert_eq!(state.parameters.max_bandwidth, 100 << 20);
    assert_eq!(state.parameters.avail_switchover_bandwidth, 2 << 20);
    assert_eq!(state.parameters.downtime_limit, 7);
    assert_eq!(state.parameters.whimbrel_digest, Digest::Full);
    let encoding = &state.parameters.encoding;
    assert_eq!((encoding.multifd_compression, encoding.multifd_zstd_level), (Compression::Lz4, 20));
    assert_eq!(encoding.xbzrle_cache_size, 1 << 30);
    assert_eq!(state.capabilities, [MigrationCapability::Events]);
    assert_eq!(state.incoming, Some(Address::Tcp { host: "::".to_owned(), port: 4444 }));
    assert_eq!(state.balloon, 512 << 20);
    assert!(state.announced.is_some());
}

#[test]
fn a_migration_can_be_run_by_lines() {
    let bench = Bench::new();
    let mut client = bench.client();
    assert_eq!(client.human("migrate -d unix:/x").unwrap(), "");
    eventually("it completes", || client.query_migrate().unwrap().status == Some(MigrationStatus::Completed));
    let text = client.human("info migrate -a").unwrap();
    assert!(text.contains("Migration status: completed\n") && text.contains("downtime: 1 ms\n"), "{text}");
    assert_eq!(client.human("info status").unwrap(), "VM status: paused (postmigrate)\n");
    let error = "Error: The machine has moved away: it runs on the destination\n";
    assert_eq!(client.human("cont").unwrap(), error);
}

#[test]
fn lines_that_are_wrong_say_how() {
    let bench = Bench::new();
    let mut client = bench.client();
    let cases = [
        ("", ""),
        ("zork", "unknown command: 'zork'\n"),
        ("info zork", "unknown command: 'info zork'\n"),
        (
            "stop x",
            "stop: extraneous characters at the end of line\nTry \"help stop\" for more information\n",
        ),
        ("migrate", "migrate: an argument is missing\nTry \"help migrate\" for more information\n"),
        ("migrate_set_parameter zork 1", "Error: invalid parameter value: zork\n"),
        ("migrate_set_capability zork on", "Error: invalid parameter value: zork\n"),
        ("sendkey zork", "Error: Parameter 'keys' does not accept value 'zork'\n"),
    ];
    for (line, expected) in cases {
        assert_eq!(client.human(line).unwrap(), expected, "{line}");
    }
    for line in [
        "balloon x",
        "balloon -1",
        "balloon 0",
        "balloon 99999999999999T",
        "migrate_set_parameter downtime-limit x",
        "migrate_set_parameter whimbrel-digest yes",
    ] {
        let text = client.human(line).unwrap();
        assert!(text.starts_with("Error: Parameter"), "{line}: {text}");
    }
    assert_eq!(bench.machine.state().status, RunState::Running);
}

#[test]
fn lines_end_as_qemu_ends_them() {
    let bench = Bench::new();
    let text =
        bench.client().execute("human-monitor-command", json!({ "command-line": "info status" })).unwrap();
    assert_eq!(text, "VM status: running\r\n");
}

#[test]
fn what_info_shows_is_as_in_qemu() {
    let bench = Bench::new();
    let mut client = bench.client();
    let text: Vec<String> = [
        "help",
        "help migrate",
        "info",
        "info status",
        "info version",
        "info balloon",
        "info name",
        "info uuid",
        "info migrate",
        "info migrate_parameters",
        "info migrate_capabilities",
    ]
    .map(|line| format!("(qemu) {line}\n{}", client.human(line).unwrap()))
    .into();
    // The commit that this was built from changes, the text does not.
    let text = text.join("\n").replace(release::VERSION, env!("CARGO_PKG_VERSION"));
    insta::assert_snapshot!(text);
}
