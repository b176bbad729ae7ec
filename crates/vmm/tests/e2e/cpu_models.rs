//! What a guest sees of its processor, and where it can go with that.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::{Child, Command, Output, Stdio},
};

use cpu::CpuModel;
use monitor::{Client, types::MigrationStatus};
use serde_json::{Value, json};

use crate::harness::{Lab, PATIENCE, Spec, Story, run_to_end, skipped, until};

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

/// A QEMU that runs nothing and answers questions.
fn qemu(lab: &Lab) -> Option<(Client, Ending)> {
    let socket = lab.path("qemu.qmp");
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64", "-M", "none", "-display", "none"]);
    command.args(["-nodefaults", "-qmp", &format!("unix:{},server=on,wait=off", socket.display())]);
    let is_there = Command::new("qemu-system-x86_64").arg("--version").output().is_ok();
    if !is_there {
        skipped("there is no qemu-system-x86_64");
        return None;
    }
    let process = Ending(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    Some((until("QEMU answers", || Client::connect(&socket, PATIENCE).ok()), process))
}

/// Killed when it is dropped.
struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn models_and_features_are_what_qemu_has_under_these_names() {
    let Some(lab) = Lab::new() else { return };
    let Some((mut qemu, _process)) = qemu(&lab) else { return };
    let mut expanded = |model: &str, how: &str| -> BTreeMap<String, Value> {
        let arguments = json!({ "type": how, "model": { "name": model } });
        let mut found = qemu.execute("query-cpu-model-expansion", arguments).unwrap();
        serde_json::from_value(found["model"]["props"].take()).unwrap()
    };
    let named = cpu::MODELS.iter().filter(|model| !model.name.starts_with("x86-64"));
    let mut compared = 0;
    for model in named {
        let theirs = expanded(model.name, "static");
        let theirs = theirs.iter().filter(|(_, on)| **on == true).filter_map(|(name, _)| cpu::by_name(name));
        let theirs: BTreeSet<_> =
            theirs.map(|feature| feature.name).filter(|name| !CpuModel::is_fixed(name)).collect();
        // For QEMU's software processor, which is what it has without a machine, and which has no `vme`.
        assert_eq!(model.features(), theirs, "{}", model.name);
        compared += 1;
    }
    assert!(compared > 20);
    // What QEMU 7.2 does not know yet, or knows by no name of its own.
    let newer = [
        "shstk",
        "ibt",
        "flush-l1d",
        "fzrm",
        "fsrs",
        "fsrc",
        "amx-fp16",
        "avx-ifma",
        "stibp-always-on",
        "amd-psfd",
    ];
    let known = expanded("max", "full");
    let unknown = cpu::FEATURES.iter().map(|feature| feature.name).filter(|name| !known.contains_key(*name));
    let unknown: Vec<_> = unknown.filter(|name| !newer.contains(name)).collect();
    assert!(unknown.is_empty(), "QEMU does not know {unknown:?}");
}
