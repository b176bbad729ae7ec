//! Parameters of how a migration comes to its end.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

#[expect(dead_code, reason = "each file of tests looks at a part of it")]
mod machine;
#[expect(dead_code, reason = "each file of tests looks at a part of it")]
mod support;

use serde_json::{Value, json};
use support::Bench;
use whimbrel_monitor::types::{EndParameters, ThrottleWay};

#[test]
fn defaults_are_qemus_and_no_deadline() {
    let bench = Bench::new();
    let parameters = bench.client().execute("query-migrate-parameters", Value::Null).unwrap();
    for (name, value) in [
        ("throttle-trigger-threshold", json!(50)),
        ("cpu-throttle-initial", json!(20)),
        ("cpu-throttle-increment", json!(10)),
        ("cpu-throttle-tailslow", json!(false)),
        ("max-cpu-throttle", json!(99)),
        ("vcpu-dirty-limit", json!(1)),
        ("x-vcpu-dirty-limit-period", json!(1000)),
        ("whimbrel-throttle", json!("computed")),
        ("whimbrel-deadline", json!(0)),
        ("whimbrel-means", json!("downtime,throttle,postcopy")),
        ("whimbrel-downtime-max", json!(0)),
    ] {
        assert_eq!(parameters[name], value, "{name}");
    }
}

#[test]
fn what_is_set_is_in_force_by_qmp_and_by_lines() {
    let bench = Bench::new();
    let mut client = bench.client();
    let set = json!({ "max-cpu-throttle": 60, "cpu-throttle-tailslow": true, "whimbrel-means": "none" });
    client.execute("migrate-set-parameters", set).unwrap();
    for line in [
        "migrate_set_parameter throttle-trigger-threshold 100",
        "migrate_set_parameter cpu-throttle-tailslow off",
        "migrate_set_parameter whimbrel-throttle steps",
        "migrate_set_parameter whimbrel-deadline 31536000",
        "migrate_set_parameter vcpu-dirty-limit 50",
        "migrate_set_parameter x-vcpu-dirty-limit-period 1",
        "migrate_set_parameter whimbrel-means postcopy,downtime",
    ] {
        assert_eq!(client.human(line).unwrap(), "", "{line}");
    }
    let expected = EndParameters {
        max_cpu_throttle: 60,
        throttle_trigger_threshold: 100,
        whimbrel_throttle: ThrottleWay::Steps,
        whimbrel_deadline: 31_536_000,
        vcpu_dirty_limit: 50,
        x_vcpu_dirty_limit_period: 1,
        whimbrel_means: "postcopy,downtime".into(),
        ..EndParameters::default()
    };
    assert_eq!(bench.machine.state().parameters.end, expected);
    assert_eq!(expected.means().collect::<Vec<_>>(), ["postcopy", "downtime"]);
}

#[test]
fn what_is_out_of_range_is_refused_and_changes_nothing() {
    let bench = Bench::new();
    let mut client = bench.client();
    for (name, value) in [
        ("throttle-trigger-threshold", json!(0)),
        ("throttle-trigger-threshold", json!(101)),
        ("cpu-throttle-initial", json!(0)),
        ("cpu-throttle-increment", json!(100)),
        ("max-cpu-throttle", json!(100)),
        ("max-cpu-throttle", json!(-1)),
        ("vcpu-dirty-limit", json!(0)),
        ("vcpu-dirty-limit", json!(1_u64 << 44)),
        ("x-vcpu-dirty-limit-period", json!(0)),
        ("x-vcpu-dirty-limit-period", json!(1001)),
        ("cpu-throttle-tailslow", json!("maybe")),
        ("whimbrel-deadline", json!(31_536_001_u64)),
        ("whimbrel-deadline", json!(1.5)),
        ("whimbrel-means", json!("downtime,downtime")),
        ("whimbrel-means", json!("hope")),
        ("whimbrel-means", json!("")),
        ("whimbrel-throttle", json!("fast")),
        ("whimbrel-downtime-max", json!(2_000_001)),
    ] {
        let set = json!({ name: value, "downtime-limit": 7 });
        client.execute("migrate-set-parameters", set).unwrap_err();
    }
    let parameters = bench.machine.state().parameters.clone();
    assert_eq!((parameters.end, parameters.downtime_limit), (EndParameters::default(), 300));
    let crossed =
        EndParameters { cpu_throttle_initial: 70, max_cpu_throttle: 60, ..EndParameters::default() };
    assert!(crossed.check().unwrap_err().contains("cpu_throttle_initial to 99"));
}
