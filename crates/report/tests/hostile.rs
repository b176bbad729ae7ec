//! Reports that somebody made up: every one is refused in a sentence, or shown as what it is.

use proptest::prelude::*;
use report::{Report, html, text};
use serde_json::{Value, json};

/// A report with everything in it.
fn whole() -> Value {
    json!({
        "schema": 1, "side": "source", "session": "s", "outcome": "completed", "reason": "r", "began": "2026-01-02T03:04:05Z",
        "duration-ms": 1520.5,
        "source": { "host": "a", "process": 7, "release": "0.1.0" },
        "destination": { "address": "tcp:[::1]:4444" },
        "machine": { "name": "db-1", "memory-bytes": 1_073_741_824_u64, "vcpus": 2 },
        "parameters": { "channels": 4, "max-bandwidth": 0, "downtime-limit-ms": 300, "switchover-bandwidth": 0,
                        "pause-before-switchover": false, "digest": "transfer" },
        "totals": { "bytes": 1_100_000_000_u64, "raw-pages": 250_000, "zero-pages": 12_144, "dirty-syncs": 3, "setup-ms": 2.5 },
        "rounds": [
            { "round": 1, "last": false, "began-ms": 2.5, "duration-ms": 600.0, "bytes": 1_000_000_000_u64,
              "raw-pages": 240_000, "zero-pages": 12_144, "remaining-bytes": 31_000_000, "dirty-rate": 5e7,
              "wire-rate": 1.7e9, "predicted-downtime-ms": 22.3,
              "stalls": { "faults": 7000, "kernel-ms": 31.5, "waiting-for-cpu-ms": 4.0 } },
            { "round": 2, "last": true, "began-ms": 603.0, "duration-ms": 17.0, "bytes": 31_000_000, "raw-pages": 7000,
              "zero-pages": 0, "remaining-bytes": 0, "dirty-rate": 0.0, "wire-rate": 1.8e9 }
        ],
        "decisions": [{ "at-ms": 602.5, "text": "Switched after round 1: 31.0 MB left" }],
        "downtime": { "total-ms": 21.5, "predicted-ms": 22.3,
                      "phases": [{ "name": "stop", "ms": 0.7 }, { "name": "last pages", "ms": 17.5 },
                                 { "name": "save", "ms": 1.5, "beside": true }] },
        "cpu-seconds": 0.8,
        "stalls": { "measure": "m", "total": { "faults": 7000, "kernel-ms": 31.5, "waiting-for-cpu-ms": 4.0 } },
        "following": { "missing-pages": 12, "bytes": 5_000_000, "requests": 321,
                       "waits": { "count": 4321, "mean-ms": 0.25, "p50-ms": 0.125, "p99-ms": 1.5, "p999-ms": 3.5, "worst-ms": 4.25,
                                  "histogram": [0, 0, 4000, 321], "vcpu-block-ms": [12.5, 13.5], "block-ms": 2.25, "step-ms": 100.0,
                                  "steps": [{ "missing-pages": 900, "faults": 4000 }, { "missing-pages": 12, "faults": 321 }] } },
        "security": { "encrypted": true, "protocol": "TLS 1.3", "cipher": "TLS_AES_128_GCM_SHA256", "resumed": false, "rekeys": 3,
                      "own": { "subject": "CN=a", "names": [], "not-after": "2027-01-01T00:00:00Z" },
                      "peer": { "subject": "CN=b", "names": ["dns:b.example"], "not-after": "2027-01-01T00:00:00Z" } },
        "integrity": { "level": "full", "equal": false, "differences": ["ram.low 0x0–0x1fffff"] },
        "arrived": { "messages": 9, "last-message": "Complete", "device-states": 8, "error": "cut",
                     "channels": [{ "index": 0, "frames": 3, "bytes": 70_000, "raw-pages": 16, "zero-pages": 1, "rounds": 1,
                                    "last-frame": "pages", "error": "checksum" }] }
    })
}

fn read(report: &Value) -> Result<Report, String> {
    Report::read(report.to_string().as_bytes()).map_err(|error| {
        let source =
            std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
        format!("{error}{source}")
    })
}

#[test]
fn everything_in_a_report_is_shown_on_both() {
    let report = read(&whole()).unwrap();
    let (text, page) = (text::render(&report), html::render(&report));
    for part in [
        "db-1",
        "completed",
        "31.0 MB left",
        "ram.low",
        "checksum",
        "Complete",
        "last pages",
        "22.3 ms",
        "tcp:[::1]:4444",
        "4 321 accesses waited",
        "12.5 ms",
    ] {
        assert!(text.contains(part), "'{part}' is not in:\n{text}");
        assert!(page.contains(part), "'{part}' is not in the page");
    }
    assert_eq!(Report::read(report.to_json().unwrap().as_bytes()).unwrap(), report);
    for foreign in ["http://", "https://", "<script", "<img", "<link", "@import", "url("] {
        assert!(!page.contains(foreign), "the page has {foreign}");
    }
}

#[test]
fn a_report_that_is_cut_off_anywhere_is_refused() {
    let json = whole().to_string();
    for length in 0..json.len() {
        assert!(Report::read(&json.as_bytes()[..length]).is_err(), "{length}");
    }
}

#[test]
fn markup_and_terminal_codes_in_any_text_are_shown_as_text() {
    let bad = "<script>alert(1)</script>\"'><svg onload=x>\u{1b}[2J\u{7}";
    let mut report = whole();
    spoil(&mut report, bad);
    let report = read(&report).unwrap();
    let (text, page) = (text::render(&report), html::render(&report));
    assert!(!text.contains(['\u{1b}', '\u{7}']), "{text:?}");
    assert!(!page.contains("<script") && !page.contains("<svg onload") && !page.contains('\u{1b}'));
    assert!(page.matches("&lt;script&gt;").count() >= 10, "the texts are missing from the page");
}

/// Puts `text` wherever a text may be anything.
fn spoil(value: &mut Value, text: &str) {
    match value {
        Value::Object(members) => {
            let free = members.iter_mut().filter(|(name, _)| !["side", "outcome"].contains(&name.as_str()));
            free.for_each(|(_, value)| spoil(value, text));
        }
        Value::Array(items) => items.iter_mut().for_each(|value| spoil(value, text)),
        Value::String(string) => *string = text.into(),
        _ => {}
    }
}

#[test]
fn numbers_that_cannot_be_are_refused_or_drawn() {
    for wrong in ["NaN", "Infinity", "1e999", "-1", "18446744073709551616", "null", "\"1\""] {
        let json = whole().to_string().replace("\"raw-pages\":250000", &format!("\"raw-pages\":{wrong}"));
        assert!(Report::read(json.as_bytes()).is_err(), "{wrong}");
    }
    for (name, huge) in
        [("duration-ms", json!(1e308)), ("cpu-seconds", json!(-1e308)), ("rounds-left-out", json!(u64::MAX))]
    {
        let mut report = whole();
        report[name] = huge;
        let report = read(&report).unwrap();
        assert!(text::render(&report).len() < 20_000 && html::render(&report).len() < 60_000);
    }
}

#[test]
fn what_another_release_wrote_is_named() {
    let mut report = whole();
    report["schema"] = json!(2);
    assert!(read(&report).unwrap_err().contains("schema version 2"));
    let mut report = whole();
    report["a-member-of-the-future"] = json!([1, 2]);
    assert!(read(&report).is_ok());
    let mut report = whole();
    report["decisions"] = Value::Array(vec![json!({ "at-ms": 1.0, "text": "" }); 10_001]);
    assert!(read(&report).unwrap_err().contains("'decisions' has 10001 items"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_numbers_can_be_shown(a in any::<u64>(), b in proptest::num::f64::NORMAL, c in any::<u32>()) {
        let mut report = whole();
        for round in report["rounds"].as_array_mut().unwrap() {
            for name in ["began-ms", "duration-ms", "dirty-rate", "wire-rate", "predicted-downtime-ms"] {
                round[name] = json!(b);
            }
            for name in ["bytes", "raw-pages", "zero-pages", "remaining-bytes"] {
                round[name] = json!(a);
            }
            round["round"] = json!(c);
        }
        report["downtime"]["phases"][0]["ms"] = json!(b);
        let report = read(&report).unwrap();
        prop_assert!(!text::render(&report).is_empty());
        let page = html::render(&report);
        prop_assert!(!page.contains("NaN") && !page.contains("inf\""));
    }
}

#[test]
fn who_the_other_side_was_and_who_could_listen_is_said() {
    let (text, page) = {
        let report = read(&whole()).unwrap();
        (text::render(&report), html::render(&report))
    };
    for word in [
        "TLS 1.3",
        "TLS_AES_128_GCM_SHA256",
        "CN=b (dns:b.example)",
        "valid until 2027-01-01",
        "renewed 3 times",
    ] {
        assert!(text.contains(word) && page.contains(word), "{word}");
    }
    let mut clear = whole();
    clear["security"] = json!({ "encrypted": false, "note": "Whoever can read <the network>\u{202e} reads" });
    let report = read(&clear).unwrap();
    assert!(text::render(&report).contains("not encrypted. Whoever can read <the network>\u{fffd} reads"));
    assert!(html::render(&report).contains("Whoever can read &lt;the network&gt;"));
}
