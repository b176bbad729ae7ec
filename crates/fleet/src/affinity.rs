//! Which nodes a machine may have, and which it would rather have, by their labels.

use std::collections::BTreeMap;

use objects::{
    NodeAffinity, NodeSelectorOperator, NodeSelectorRequirement, NodeSelectorTerm, VirtualMachineInstance,
};

type Labels = BTreeMap<String, String>;

fn affinity(instance: &VirtualMachineInstance) -> Option<&NodeAffinity> {
    instance.spec.affinity.as_ref()?.node_affinity.as_ref()
}

/// Whether a node with these labels may have a machine.
pub(crate) fn is_allowed(instance: &VirtualMachineInstance, labels: &Labels) -> bool {
    let required = affinity(instance)
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    required.is_none_or(|required| required.node_selector_terms.iter().any(|term| holds(term, labels)))
}

/// How much a machine would like a node with these labels.
pub(crate) fn preference(instance: &VirtualMachineInstance, labels: &Labels) -> u32 {
    let preferred = affinity(instance)
        .map_or(&[][..], |affinity| &affinity.preferred_during_scheduling_ignored_during_execution);
    let held = preferred.iter().filter(|one| holds(&one.preference, labels));
    held.fold(0, |sum, one| sum.saturating_add(one.weight))
}

/// Whether a machine may not go everywhere.
pub(crate) fn is_bound(instance: &VirtualMachineInstance) -> bool {
    let is_required =
        |affinity: &NodeAffinity| affinity.required_during_scheduling_ignored_during_execution.is_some();
    !instance.spec.node_selector.is_empty() || affinity(instance).is_some_and(is_required)
}

fn holds(term: &NodeSelectorTerm, labels: &Labels) -> bool {
    !term.match_expressions.is_empty()
        && term.match_expressions.iter().all(|requirement| is_met(requirement, labels.get(&requirement.key)))
}

fn is_met(requirement: &NodeSelectorRequirement, label: Option<&String>) -> bool {
    let compared = |is_met: fn(i64, i64) -> bool| {
        let wanted = requirement.values.first().and_then(|value| value.parse().ok());
        label
            .and_then(|label| label.parse().ok())
            .zip(wanted)
            .is_some_and(|(label, wanted)| is_met(label, wanted))
    };
    match requirement.operator {
        NodeSelectorOperator::In => label.is_some_and(|label| requirement.values.contains(label)),
        NodeSelectorOperator::NotIn => label.is_none_or(|label| !requirement.values.contains(label)),
        NodeSelectorOperator::Exists => label.is_some(),
        NodeSelectorOperator::DoesNotExist => label.is_none(),
        NodeSelectorOperator::Gt => compared(|label, wanted| label > wanted),
        NodeSelectorOperator::Lt => compared(|label, wanted| label < wanted),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn met(operator: &str, values: &[&str], label: Option<&str>) -> bool {
        let requirement = json!({ "key": "rack", "operator": operator, "values": values });
        is_met(&serde_json::from_value(requirement).unwrap(), label.map(str::to_owned).as_ref())
    }

    #[test]
    fn operators_mean_what_they_mean_in_kubernetes() {
        assert!(
            met("In", &["a", "b"], Some("b")) && !met("In", &["a"], Some("b")) && !met("In", &["a"], None)
        );
        assert!(
            !met("NotIn", &["a"], Some("a")) && met("NotIn", &["a"], Some("b")) && met("NotIn", &["a"], None)
        );
        assert!(met("Exists", &[], Some("")) && !met("Exists", &[], None));
        assert!(met("DoesNotExist", &[], None) && !met("DoesNotExist", &[], Some("")));
        assert!(
            met("Gt", &["3"], Some("4")) && !met("Gt", &["3"], Some("3")) && !met("Gt", &["3"], Some("x"))
        );
        assert!(met("Lt", &["3"], Some("-4")) && !met("Lt", &["3"], None) && !met("Lt", &[], Some("1")));
    }
}
