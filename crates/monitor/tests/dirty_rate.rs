//! Measuring how fast a guest writes its memory, as clients ask for it.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

#[expect(dead_code, reason = "each file of tests looks at a part of it")]
mod machine;
#[expect(dead_code, reason = "each file of tests looks at a part of it")]
mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::Bench;
use whimbrel_monitor::types::{DirtyRateMode, DirtyRateRequest};

#[test]
fn a_measurement_is_asked_for_as_in_qemu() {
    let bench = Bench::new();
    let mut client = bench.client();
    let fresh = client.execute("query-dirty-rate", Value::Null).unwrap();
    assert_eq!((&fresh["status"], fresh.get("dirty-rate")), (&json!("unstarted"), None));
    client.execute("calc-dirty-rate", json!({ "calc-time": 1 })).unwrap();
    let plain = DirtyRateRequest {
        calc_time: Duration::from_secs(1),
        sample_pages: 512,
        mode: DirtyRateMode::PageSampling,
    };
    assert_eq!(bench.machine.state().measured, Some(plain));
    let asked = json!({ "calc-time": 50, "calc-time-unit": "millisecond", "mode": "dirty-bitmap" });
    client.execute("calc-dirty-rate", asked).unwrap();
    let calc_time = Duration::from_millis(50);
    let by_bitmap = DirtyRateRequest { calc_time, mode: DirtyRateMode::DirtyBitmap, ..plain };
    assert_eq!(bench.machine.state().measured, Some(by_bitmap));
    client.execute("calc-dirty-rate", json!({ "calc-time": 60, "sample-pages": 4096 })).unwrap();
    assert_eq!(
        client.execute("query-dirty-rate", json!({ "calc-time-unit": "millisecond" })).unwrap(),
        json!({
            "dirty-rate": 77, "status": "measured", "start-time": 5, "calc-time": 60_000,
            "calc-time-unit": "millisecond", "sample-pages": 4096, "mode": "page-sampling",
        })
    );
}

#[test]
fn what_cannot_be_measured_is_refused_with_the_range() {
    let bench = Bench::new();
    let mut client = bench.client();
    for (arguments, expected) in [
        (json!({}), "Parameter 'calc-time' is missing"),
        (json!({ "calc-time": 0 }), "calc-time is out of range[50, 60000]"),
        (json!({ "calc-time": -7 }), "calc-time is out of range"),
        (json!({ "calc-time": i64::MAX }), "calc-time is out of range"),
        (json!({ "calc-time": 49, "calc-time-unit": "millisecond" }), "calc-time is out of range"),
        (
            json!({ "calc-time": 1, "calc-time-unit": "hour" }),
            "'calc-time-unit' does not accept value 'hour'",
        ),
        (json!({ "calc-time": 1, "sample-pages": 127 }), "sample-pages is out of range[128, 4096]"),
        (
            json!({ "calc-time": 1, "sample-pages": 512, "mode": "dirty-bitmap" }),
            "leave it out with dirty-bitmap",
        ),
        (json!({ "calc-time": 1, "mode": "guess" }), "'mode' does not accept value 'guess'"),
    ] {
        let error = client.execute("calc-dirty-rate", arguments.clone()).unwrap_err();
        let said = std::error::Error::source(&error).map_or_else(String::new, ToString::to_string);
        assert!(said.contains(expected), "{arguments}: {said}");
    }
    assert_eq!(bench.machine.state().measured, None);
}

#[test]
fn lines_measure_too() {
    let bench = Bench::new();
    let mut client = bench.client();
    assert!(client.human("info dirty_rate").unwrap().contains("Status: unstarted\n"));
    assert!(client.human("calc_dirty_rate 2 1024").unwrap().starts_with("Starting dirty rate measurement"));
    assert_eq!(
        client.human("info dirty_rate").unwrap(),
        "Status: measured\nStart Time: 5 (s)\nSample Pages: 1024 (per GB)\nPeriod: 2 (sec)\nMode: page-sampling\n\
         Dirty rate: 77 (MB/s)\n"
    );
    client.human("calc_dirty_rate -b 1").unwrap();
    assert_eq!(bench.machine.state().measured.unwrap().mode, DirtyRateMode::DirtyBitmap);
    for line in [
        "calc_dirty_rate",
        "calc_dirty_rate -b -r 1",
        "calc_dirty_rate x",
        "calc_dirty_rate 0",
        "calc_dirty_rate -r",
    ] {
        let text = client.human(line).unwrap();
        assert!(text.starts_with("Error") || text.contains("Try \"help"), "{line}: {text}");
    }
}

#[test]
fn rings_tell_what_each_vcpu_writes() {
    let bench = Bench::new();
    let mut client = bench.client();
    client.execute("calc-dirty-rate", json!({ "calc-time": 1, "mode": "dirty-ring" })).unwrap();
    let info = client.execute("query-dirty-rate", Value::Null).unwrap();
    assert_eq!(
        (&info["mode"], &info["vcpu-dirty-rate"]),
        (&json!("dirty-ring"), &json!([{ "id": 0, "dirty-rate": 70 }, { "id": 1, "dirty-rate": 7 }]))
    );
    let text = client.human("info dirty_rate").unwrap();
    assert!(text.ends_with("vcpu[0], Dirty rate: 70 (MB/s)\nvcpu[1], Dirty rate: 7 (MB/s)\n"), "{text}");
}

#[test]
fn limits_of_vcpus_are_set_shown_and_lifted() {
    let bench = Bench::new();
    let mut client = bench.client();
    assert_eq!(client.execute("query-vcpu-dirty-limit", Value::Null).unwrap(), json!([]));
    client.execute("set-vcpu-dirty-limit", json!({ "dirty-rate": 20 })).unwrap();
    assert_eq!(bench.machine.state().limited, Some((None, 20)));
    client.execute("set-vcpu-dirty-limit", json!({ "cpu-index": 1, "dirty-rate": 5 })).unwrap();
    assert_eq!(
        client.execute("query-vcpu-dirty-limit", Value::Null).unwrap(),
        json!([{ "cpu-index": 1, "limit-rate": 5, "current-rate": 3 }])
    );
    let shown = client.human("info vcpu_dirty_limit").unwrap();
    assert_eq!(shown, "vcpu[1], limit rate 5 (MB/s), current rate 3 (MB/s)\n");
    client.execute("cancel-vcpu-dirty-limit", json!({ "cpu-index": 1 })).unwrap();
    assert_eq!(bench.machine.state().limited, Some((Some(1), 0)));
    client.human("set_vcpu_dirty_limit 7 0").unwrap();
    assert_eq!(bench.machine.state().limited, Some((Some(0), 7)));
    client.human("cancel_vcpu_dirty_limit").unwrap();
    assert_eq!(bench.machine.state().limited, Some((None, 0)));
    assert!(client.execute("set-vcpu-dirty-limit", json!({ "cpu-index": 1 })).is_err());
    assert!(client.human("set_vcpu_dirty_limit x").unwrap().starts_with("Error"));
}
