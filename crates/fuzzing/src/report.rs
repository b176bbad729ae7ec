//! The report of a migration, from a file that anybody may have written.

use report::{Report, html, text};

/// What is a report can be shown, both ways, and is the same when it is written and read again.
pub(crate) fn read(bytes: &[u8]) {
    let Ok(report) = Report::read(bytes) else { return };
    let shown = text::render(&report);
    assert!(shown.chars().all(|c| c == '\n' || !c.is_control()), "a terminal would obey this");
    assert!(!html::render(&report).contains("<script"), "a browser would obey this");
    let json = report.to_json().expect("a report can be written");
    // Numbers that JSON cannot hold are not in it; those it can are rounded at most once.
    let again = Report::read(json.as_bytes()).expect("what was written can be read");
    assert_eq!(again.to_json().expect("a report can be written"), json);
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let whole = r#"{"schema":1,"side":"source","session":"s","outcome":"failed","reason":"r\u001b[2J","began":"2026-01-02T03:04:05Z",
"duration-ms":1520.5,"source":{"host":"a","process":7},"destination":{"address":"tcp:[::1]:4444"},
"machine":{"name":"<script>","memory-bytes":1073741824,"vcpus":2},
"parameters":{"channels":4,"max-bandwidth":0,"downtime-limit-ms":300,"switchover-bandwidth":0,"pause-before-switchover":false,"digest":"full"},
"totals":{"bytes":1100000000,"raw-pages":250000,"zero-pages":12144},
"rounds":[{"round":1,"last":true,"began-ms":2.5,"duration-ms":600.0,"bytes":18446744073709551615,"raw-pages":1,"zero-pages":0,
"remaining-bytes":31000000,"dirty-rate":5e7,"wire-rate":1e308,"predicted-downtime-ms":-1e308}],
"decisions":[{"at-ms":602.5,"text":"Switched"}],"downtime":{"phases":[{"name":"stop","ms":0.7},{"name":"save","ms":1e-300,"beside":true}]},
"cpu-seconds":0.8,"integrity":{"level":"full","equal":false,"differences":["ram.low"]},
"arrived":{"messages":9,"device-states":8,"channels":[{"index":0,"frames":3,"bytes":7,"raw-pages":1,"zero-pages":1,"rounds":1}]}}"#;
    vec![whole.into(), b"{\"schema\":2}".to_vec(), b"[]".to_vec()]
}
