//! What a migration would be like, as the monitor foretells it.

use monitor::types::{MigrationStatus, PredictedMode, PredictionInfo, PredictionStatus};
use serde_json::{Value, json};

use crate::harness::{Lab, Spec, Story, Vmm, until};

fn info(vmm: &Vmm) -> PredictionInfo {
    serde_json::from_value(vmm.command("query-whimbrel-prediction", Value::Null)).unwrap()
}

fn predicted(vmm: &Vmm, bandwidth: u64) -> PredictionInfo {
    vmm.command("whimbrel-predict", json!({ "bandwidth": bandwidth, "time": 500 }));
    until("it is foretold", || Some(info(vmm)).filter(|info| info.status == PredictionStatus::Predicted))
}

fn by<'a>(info: &'a PredictionInfo, mode: &str) -> &'a PredictedMode {
    info.modes.iter().find(|forecast| forecast.mode == mode).unwrap()
}

#[test]
fn what_the_guest_does_and_what_is_allowed_decides_how_it_would_move() {
    let Some(lab) = Lab::new() else { return };
    let vmm = lab.boot(&Spec::new("work=32M rate=200M order=random"));
    let story = Story::of(&vmm);
    story.filled();
    let why = vmm.refused("whimbrel-predict", json!({}));
    assert!(why.contains("say how many bytes"), "{why}");
    let slow = predicted(&vmm, 20_000_000);
    let machine = slow.machine.unwrap();
    assert!((16..=48).contains(&(machine.working_set >> 20)), "{machine:?}");
    assert!(machine.dirty_rate > 50 << 20, "{machine:?}");
    assert!(!by(&slow, "precopy").ends && by(&slow, "postcopy").ends, "{slow:?}");
    assert_eq!(by(&slow, "postcopy").forbidden.as_deref(), Some("postcopy-ram is off"));
    assert!(slow.reason.unwrap().starts_with("It does not end as it is set"));
    vmm.enable("postcopy-ram");
    vmm.set(json!({ "whimbrel-postcopy": "auto", "multifd-compression": "zstd" }));
    let allowed = predicted(&vmm, 20_000_000);
    assert_eq!(allowed.choice.as_deref(), Some("postcopy"), "{allowed:?}");
    assert!(allowed.machine.unwrap().packed >= 0.99, "what is random packs to nothing: {allowed:?}");
    let fast = predicted(&vmm, 10_000_000_000);
    assert_eq!(fast.choice.as_deref(), Some("precopy"), "{fast:?}");
    story.goes_on(2);
    story.assert_intact();
}

#[test]
fn a_machine_at_rest_takes_as_long_as_was_foretold() {
    let Some(lab) = Lab::new() else { return };
    let spec = Spec::new("work=16M rate=0");
    let (source, destination) = (lab.boot(&spec), lab.vacancy(&spec));
    let mut story = Story::of(&source);
    story.filled();
    source.set(json!({ "max-bandwidth": 40_000_000 }));
    // The limit is known: nothing needs to be said.
    source.command("whimbrel-predict", Value::Null);
    // Nor is a migration disturbed that begins meanwhile.
    source.migrate(&destination.listen());
    source.migration_is(MigrationStatus::Completed);
    story.goes_on_at(&destination);
    story.goes_on(1);
    let moved = source.query_migrate();
    let told = until("it is foretold, or the machine is gone", || {
        Some(info(&source)).filter(|info| info.status != PredictionStatus::Measuring)
    });
    if told.status == PredictionStatus::Predicted {
        let precopy = by(&told, "precopy");
        let (foretold, took) = (precopy.transferred as f64, moved.ram.unwrap().transferred as f64);
        assert!((0.8..1.25).contains(&(foretold / took)), "{foretold} of {took}");
    }
    story.assert_intact();
}
