//! What is wrong with what a guest is to see of its processor.

use std::collections::BTreeSet;

use super::{Admitted, FieldErrorKind};
use crate::{Cpu, CpuFeaturePolicy};

/// Which names there are is a matter of the nodes, which say what they have: what is not known here may be of a later release. Only what a node
/// must not have must be known, because no node says what it lacks.
pub(super) fn check(cpu: &Cpu, at: &str, admitted: &mut Admitted) {
    if let Some(model) = cpu.model.as_deref().filter(|model| !is_name(model)) {
        admitted.invalid(format!("{at}.model"), model, NAME);
    }
    let mut named = BTreeSet::new();
    for (index, feature) in cpu.features.iter().enumerate() {
        let (path, name) = (format!("{at}.features[{index}].name"), feature.name.as_str());
        if !is_name(name) {
            admitted.invalid(path, name, NAME);
        } else if !named.insert(feature.known_as()) {
            admitted.error(path, FieldErrorKind::Duplicate(name.into()), "it is named before");
        } else if cpu::by_name(name).is_none() {
            unknown(feature.policy, path, name, admitted);
        }
    }
}

fn unknown(policy: CpuFeaturePolicy, path: String, name: &str, admitted: &mut Admitted) {
    if policy == CpuFeaturePolicy::Forbid {
        let message = "there is no CPU feature of this name, so that nothing would be forbidden: \
            `whimbrel-vmm --cpu help` lists them";
        admitted.invalid(path, name, message);
    } else {
        admitted.warnings.push(format!("{path}: no CPU feature is called {name} in this release"));
    }
}

const NAME: &str =
    "must be letters, digits, '-', '_' and '.', at most 40, and begin and end with one of the first two";

fn is_name(name: &str) -> bool {
    let is_whole = |letter: char| letter.is_ascii_alphanumeric();
    name.len() <= 40
        && name.starts_with(is_whole)
        && name.ends_with(is_whole)
        && name.chars().all(|letter| is_whole(letter) || "-_.".contains(letter))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::Review;

    fn checked(features: &Value) -> (Vec<String>, usize) {
        let cpu: Cpu = serde_json::from_value(json!({ "features": features })).unwrap();
        let mut admitted = Admitted::default();
        check(&cpu, "cpu", &mut admitted);
        (admitted.errors.iter().map(ToString::to_string).collect(), admitted.warnings.len())
    }

    #[test]
    fn a_feature_is_there_once_by_whichever_of_its_names() {
        for (one, other) in cpu::ALIASES.iter().chain(&[("sse4_2", "sse4-2"), ("sse4.2", "sse4_2")]) {
            let (errors, _) = checked(&json!([{ "name": one }, { "name": other, "policy": "disable" }]));
            assert_eq!(errors.len(), 1, "{one} and {other}");
            assert!(errors[0].starts_with("cpu.features[1].name: Duplicate value"), "{errors:?}");
        }
        assert_eq!(checked(&json!([{ "name": "sse4_1" }, { "name": "sse4_2" }])), (Vec::new(), 0));
    }

    #[test]
    fn what_is_no_feature_is_warned_of_and_cannot_be_forbidden() {
        assert_eq!(
            checked(&json!([{ "name": "avx3" }, { "name": "avx4", "policy": "disable" }])),
            (Vec::new(), 2)
        );
        let (errors, _) = checked(
            &json!([{ "name": "lzcnt", "policy": "forbid" }, { "name": "avx3", "policy": "forbid" }]),
        );
        assert_eq!(errors.len(), 1);
        assert!(errors[0].contains("features[1].name") && errors[0].contains("no CPU feature"), "{errors:?}");
    }

    #[test]
    fn what_was_let_in_before_does_not_keep_a_machine_from_being_changed() {
        let machine = |features: &Value, strategy: &str| {
            json!({
                "apiVersion": "whimbrel.dev/v1", "kind": "VirtualMachine", "metadata": { "name": "a" },
                "spec": { "runStrategy": strategy, "template": { "spec": { "domain": {
                    "cpu": { "features": features }, "memory": { "guest": "64Mi" },
                    "firmware": { "kernelBoot": { "host": { "kernelPath": "/k" } } },
                }}}},
            })
        };
        let changed = |old: &Value, mut new: Value| {
            let mut review = Review { object: &mut new, old: Some(old), others: &|_, _| Vec::new() };
            let admitted = crate::validation::machine(&mut review);
            (admitted.errors.len(), admitted.warnings.len())
        };
        let twice = json!([{ "name": "aes" }, { "name": "aes" }]);
        let old = machine(&twice, "Always");
        assert_eq!(changed(&old, machine(&twice, "Halted")), (0, 1));
        assert_eq!(changed(&old, machine(&json!([{ "name": "aes" }]), "Halted")), (0, 0));
        let more = json!([{ "name": "aes" }, { "name": "aes" }, { "name": "aes" }]);
        assert_eq!(changed(&old, machine(&more, "Always")), (1, 1));
    }
}
