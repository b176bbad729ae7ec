//! What is foretold of a migration, as clients ask for it.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

#[expect(dead_code, reason = "each file of tests looks at a part of it")]
mod machine;
#[expect(dead_code, reason = "each file of tests looks at a part of it")]
mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::Bench;
use whimbrel_monitor::types::PredictionRequest;

#[test]
fn a_prediction_is_asked_for_and_read() {
    let bench = Bench::new();
    let mut client = bench.client();
    let fresh = client.execute("query-whimbrel-prediction", Value::Null).unwrap();
    assert_eq!(fresh, json!({ "status": "none", "modes": [] }));
    client.execute("whimbrel-predict", json!({ "bandwidth": 125_000_000, "time": 200, "id": 7 })).unwrap();
    let asked = PredictionRequest {
        bandwidth: Some(125_000_000),
        to: None,
        time: Duration::from_millis(200),
        id: Some(7),
    };
    assert_eq!(bench.machine.state().predicted, Some(asked));
    let told = client.execute("query-whimbrel-prediction", Value::Null).unwrap();
    assert_eq!(told["modes"][1]["forbidden"], "postcopy-ram is off");
    assert_eq!((&told["choice"], &told["machine"]["working-set"]), (&"precopy".into(), &(64 << 20).into()));
    client.execute("whimbrel-predict", Value::Null).unwrap();
    let plain = PredictionRequest { bandwidth: None, to: None, time: Duration::from_secs(1), id: None };
    assert_eq!(bench.machine.state().predicted, Some(plain));
}

#[test]
fn people_read_a_table() {
    let bench = Bench::new();
    let mut client = bench.client();
    assert_eq!(client.human("info prediction").unwrap(), "Status: none\n");
    assert!(client.human("whimbrel_predict 120M").unwrap().starts_with("Looking at the machine"));
    assert_eq!(bench.machine.state().predicted.clone().unwrap().bandwidth, Some(120 << 20));
    assert_eq!(
        client.human("info prediction").unwrap(),
        "Status: predicted\n\
         Memory: 1024 MiB, 256 MiB of it zero\n\
         Working set: 64 MiB, dirtied at 100 MiB/s\n\
         Packed: to 25 %\n\
         Bandwidth: 125 MB/s (as given)\n\
         mode         total s  downtime ms        MB    CPU s  loss %\n\
         precopy    does not end\n\
         postcopy         8.2          2.1       805      0.4    12.0  (postcopy-ram is off)\n\
         Would be taken: precopy. It does not end as it is set\n"
    );
    client.human("predict tcp:host-b:4444").unwrap();
    let asked = bench.machine.state().predicted.clone().unwrap();
    assert_eq!((asked.to, asked.bandwidth), (Some("tcp:host-b:4444".parse().unwrap()), None));
}

#[test]
fn what_is_out_of_range_is_refused() {
    let bench = Bench::new();
    let mut client = bench.client();
    let both = json!({ "bandwidth": 1, "uri": "tcp:a:1" });
    client.execute("whimbrel-predict", both).unwrap_err();
    for uri in ["a:1", "tcp:a", "tcp:a:0", "exec:rm"] {
        client.execute("whimbrel-predict", json!({ "uri": uri })).unwrap_err();
    }
    for arguments in
        [json!({ "time": 49 }), json!({ "time": 60_001 }), json!({ "bandwidth": 0 }), json!({ "rate": 1 })]
    {
        client.execute("whimbrel-predict", arguments.clone()).unwrap_err();
    }
    client.human("whimbrel_predict fast").unwrap_or_default();
    assert_eq!(bench.machine.state().predicted, None);
}
