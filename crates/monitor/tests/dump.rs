//! Core files, as clients ask for them.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

#[expect(dead_code, reason = "each file of tests looks at a part of it")]
mod machine;
#[expect(dead_code, reason = "each file of tests looks at a part of it")]
mod support;

use serde_json::{Value, json};
use support::Bench;
use whimbrel_monitor::types::DumpRequest;

#[test]
fn a_dump_is_asked_for_as_in_qemu() {
    let bench = Bench::new();
    let mut client = bench.client();
    let asked = json!({ "paging": false, "protocol": "file:/tmp/a b", "detach": true, "format": "elf" });
    client.execute("dump-guest-memory", asked).unwrap();
    assert_eq!(bench.machine.state().dumped, Some(DumpRequest { path: "/tmp/a b".into(), detach: true }));
    client.human("dump-guest-memory /tmp/core").unwrap();
    assert_eq!(bench.machine.state().dumped, Some(DumpRequest { path: "/tmp/core".into(), detach: false }));
    let info = client.execute("query-dump", Value::Null).unwrap();
    assert_eq!(info, json!({ "status": "active", "completed": 1 << 20, "total": 3 << 20 }));
    assert_eq!(client.human("info dump").unwrap(), "Status: active\nFinished: 33.33 %\n");
    let formats = client.execute("query-dump-guest-memory-capability", Value::Null).unwrap();
    assert_eq!(formats, json!({ "formats": ["elf"] }));
}

#[test]
fn what_cannot_be_dumped_is_refused_with_the_reason() {
    let bench = Bench::new();
    let mut client = bench.client();
    for (arguments, expected) in [
        (json!({ "protocol": "file:/a" }), "Parameter 'paging' is missing"),
        (json!({ "paging": false }), "Parameter 'protocol' is missing"),
        (json!({ "paging": true, "protocol": "file:/a" }), "set 'paging' to false"),
        (json!({ "paging": false, "protocol": "file:a" }), "an absolute path, not to 'file:a'"),
        (json!({ "paging": false, "protocol": "fd:a" }), "not to 'fd:a'"),
        (json!({ "paging": false, "protocol": "file:/a", "begin": 0 }), "leave 'begin' and 'length' out"),
        (json!({ "paging": false, "protocol": "file:/a", "format": "kdump-zlib" }), "'kdump-zlib'"),
    ] {
        let error = client.execute("dump-guest-memory", arguments.clone()).unwrap_err();
        let error = std::error::Error::source(&error).unwrap().to_string();
        assert!(error.contains(expected), "{arguments}: {error}");
    }
    for line in ["dump-guest-memory", "dump-guest-memory -z /a", "dump-guest-memory /a 0 4096"] {
        let _ = client.human(line);
    }
    assert_eq!(bench.machine.state().dumped, None);
}
