//! Machines go where the processor will do.

use serde_json::Value;

use super::{Fleet, manifest};

/// A machine whose guest is to see that of its processor.
fn seeing(cpu: &str) -> String {
    let plain = manifest("8M");
    let with = plain.replace("cpu:\n          cores: 1", &format!("cpu: {{cores: 1, {cpu}}}"));
    assert_ne!(with, plain, "the example does not say how many processors it has");
    with
}

fn labels(node: &Value) -> Vec<String> {
    let labels = node["metadata"]["labels"].as_object();
    labels.into_iter().flat_map(|labels| labels.keys().cloned()).collect()
}

#[test]
fn a_machine_with_a_model_runs_and_moves_where_nodes_have_it_and_waits_with_reasons_where_none_has() {
    let Some(fleet) = Fleet::start() else { return };
    for node in ["node/node-a", "node/node-b"] {
        fleet.wait(node, |seen| labels(seen).iter().any(|label| label == "cpu-model.whimbrel.dev/x86-64"));
    }
    let node = fleet.get("node/node-a");
    let feature = labels(&node).into_iter().find_map(|label| {
        let name = label.strip_prefix("cpu-feature.whimbrel.dev/")?.to_owned();
        [("sse4.2", "sse4_2"), ("pni", "sse3")]
            .into_iter()
            .find_map(|(known, also)| (name == known).then_some(also))
    });
    let feature = feature.map_or_else(String::new, |name| format!("{{name: {name}}}"));
    fleet.create(&seeing(&format!("model: x86-64, features: [{feature}]")));
    fleet.wait_phase("vmi/busy", "Running");
    let (said, is_done) = fleet.whimbrel("migrate busy");
    assert!(is_done, "{said}\n{}", fleet.log());
    let here = fleet.get("vmi/busy")["status"]["vmm"].as_str().unwrap().to_owned();
    let description = ["node-a", "node-b"].iter().find_map(|node| {
        std::fs::read_to_string(fleet.dir().join(node).join("vmms").join(&here).join("vm.yaml")).ok()
    });
    assert!(description.unwrap().contains("\"cpu\":\"x86-64"), "the VMM was not told");
    fleet.kubectl("delete vm busy");
    fleet.wait_vmms((0, 0));

    fleet.create(&seeing("model: x86-64-v99, features: [{name: no-such}, {name: apic, policy: forbid}]"));
    let seen = fleet.wait("vmi/busy", |seen| seen["status"]["conditions"][0]["reason"] == "Unschedulable");
    let why = seen["status"]["conditions"][0]["message"].as_str().unwrap();
    for part in ["cannot be shown as CPU model x86-64-v99", "lacks no-such", "has apic, which is forbidden"] {
        assert_eq!(why.matches(part).count(), 2, "{part}: {why}");
    }
    let (said, is_done) = fleet.whimbrel("plan busy");
    assert!(!is_done && said.contains("lacks no-such"), "{said}");

    // The labels are what the processor is, whoever writes others.
    fleet.kubectl("label node node-a cpu-feature.whimbrel.dev/no-such=true cpu-model.whimbrel.dev/x86-64-");
    fleet.wait("node/node-a", |seen| {
        let labels = labels(seen);
        !labels.iter().any(|label| label.ends_with("/no-such"))
            && labels.iter().any(|label| label == "cpu-model.whimbrel.dev/x86-64")
    });
}

#[test]
fn what_cannot_be_of_a_processor_is_refused_with_the_field() {
    let Some(fleet) = Fleet::start() else { return };
    for (cpu, said) in [
        ("model: 'x86 64'", "spec.template.spec.domain.cpu.model"),
        ("model: ''", "spec.template.spec.domain.cpu.model"),
        ("features: [{name: '+aes'}]", "spec.template.spec.domain.cpu.features[0].name"),
        ("features: [{name: aes}, {name: aes, policy: disable}]", "features[1].name: Duplicate value"),
        ("features: [{name: sse4_2}, {name: sse4.2}]", "features[1].name: Duplicate value"),
        ("features: [{name: avx3, policy: forbid}]", "features[0].name: Invalid value"),
        ("features: [{name: aes, policy: force}]", "policy"),
        ("features: [{policy: require}]", "name"),
    ] {
        let file = fleet.file("wrong.yaml", &seeing(cpu));
        let output = fleet.run(&format!("create -f {file}"));
        let complained = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && complained.contains(said), "{cpu}: {complained}");
    }
}
