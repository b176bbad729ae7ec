//! What a guest sees of its processor, and where it can go with that.

use std::process::Output;

use monitor::types::MigrationStatus;

use crate::harness::{Lab, Spec, Story, run_to_end};

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

fn spec(cpu: &str) -> Spec {
    Spec::calm().flag("--cpu", cpu)
}

/// What this host has and has not of some features.
fn features(lab: &Lab) -> (Vec<String>, Vec<&'static str>) {
    let _ = lab;
    let output = run_to_end(&["--print-cpu"]);
    assert!(output.status.success(), "{}", text(&output));
    let host: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let has: Vec<String> = serde_json::from_value(host["features"].clone()).unwrap();
    let rare = ["3dnow", "xop", "tbm", "fma4", "avx512er", "sse4a"];
    let lacks = rare.into_iter().filter(|name| !has.iter().any(|has| has == name)).collect();
    (has, lacks)
}

#[test]
fn a_machine_with_a_model_moves_to_the_like_and_to_a_host_that_shows_more() {
    let Some(lab) = Lab::new() else { return };
    let source = lab.boot(&spec("x86-64"));
    let mut story = Story::of(&source);
    story.filled();
    let (like, more) = (lab.vacancy(&spec("x86-64")), lab.vacancy(&spec("host")));
    source.moves_to(&like, &like.listen());
    story.goes_on_at(&like);
    like.moves_to(&more, &more.listen());
    story.goes_on_at(&more);
    story.goes_on(2);
    // It sees there what it saw before, and can go back to a lesser one.
    let back = lab.vacancy(&spec("x86-64"));
    more.moves_to(&back, &back.listen());
    story.goes_on_at(&back);
    story.goes_on(2);
    story.assert_intact();
}

#[test]
fn a_machine_that_sees_more_than_a_destination_shows_is_refused_by_name() {
    let Some(lab) = Lab::new() else { return };
    let (has, _) = features(&lab);
    let Some(extra) = ["aes", "pni", "popcnt"].into_iter().find(|name| has.iter().any(|has| has == name))
    else {
        return;
    };
    let (source, lesser) = (lab.boot(&spec(&format!("x86-64,+{extra}"))), lab.vacancy(&spec("x86-64")));
    source.migrate(&lesser.listen());
    let reason = source.migration_fails();
    assert!(reason.contains("lacks features that the guest sees") && reason.contains(extra), "{reason}");
    assert_ne!(source.query_migrate().status, Some(MigrationStatus::Completed));
}

#[test]
fn a_model_that_the_host_lacks_something_of_is_refused_at_the_start() {
    let Some(lab) = Lab::new() else { return };
    let (_, lacks) = features(&lab);
    let Some(missing) = lacks.first() else { return };
    let flags = lab.flags(&spec(&format!("x86-64,+{missing}")));
    let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    flags.extend(["--serial", "none"]);
    let output = run_to_end(&flags);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains(&format!("of which this host lacks: {missing}")), "{}", text(&output));
}

#[test]
fn models_and_features_are_listed() {
    for flags in [&["--cpu", "help"][..], &["--cpu=help"], &["--kernel", "none", "--cpu", "?"]] {
        let output = run_to_end(flags);
        let said = text(&output);
        assert!(output.status.success(), "{said}");
        for expected in ["x86-64-v3", "EPYC", "Haswell-noTSX", "sha-ni", "avx512vl"] {
            assert!(said.contains(expected), "{expected}: {said}");
        }
    }
}
