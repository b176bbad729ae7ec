//! Our kinds as Kubernetes takes them: custom resource definitions.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, ValidationRule,
};
use kube::CustomResourceExt;

use crate::{
    Fleet, MigrationPolicy, NodeDrain, SETTINGS_NAME, VirtualMachine, VirtualMachineInstance,
    VirtualMachineInstanceMigration,
};

/// The definitions of all kinds of ours that are stored. Questions are not: what is answered and not stored is no custom resource.
///
/// With `rules` they say what may not change, in a language that servers know from Kubernetes 1.25 on; earlier ones refuse such a
/// definition. What no definition can say is checked by whoever acts on an object.
pub fn definitions(rules: bool) -> Vec<CustomResourceDefinition> {
    let mut definitions = vec![
        VirtualMachine::crd(),
        VirtualMachineInstance::crd(),
        VirtualMachineInstanceMigration::crd(),
        MigrationPolicy::crd(),
        Fleet::crd(),
        NodeDrain::crd(),
    ];
    for definition in definitions.iter_mut().filter(|_| rules) {
        add_rules(definition);
    }
    definitions
}

fn add_rules(definition: &mut CustomResourceDefinition) {
    let kind = definition.spec.names.kind.clone();
    let schemas = definition.spec.versions.iter_mut().filter_map(|version| version.schema.as_mut());
    for root in schemas.filter_map(|schema| schema.open_api_v3_schema.as_mut()) {
        if kind == "Fleet" {
            root.x_kubernetes_validations = Some(vec![rule(
                &format!("self.metadata.name == '{SETTINGS_NAME}'"),
                &format!("the settings are called {SETTINGS_NAME}"),
            )]);
        }
        let Some(spec) = root.properties.as_mut().and_then(|fields| fields.get_mut("spec")) else { continue };
        spec.x_kubernetes_validations = match kind.as_str() {
            "VirtualMachineInstance" => Some(vec![fixed(
                spec,
                &["paused"],
                "of an instance only paused can be changed: change its VirtualMachine and restart it",
            )]),
            "VirtualMachineInstanceMigration" => Some(vec![
                fixed(spec, &["cancel"], "cannot be changed: cancel this migration and make another"),
                rule("self.cancel || !oldSelf.cancel", "a cancelled migration cannot be taken up again"),
            ]),
            "NodeDrain" => Some(vec![
                rule(
                    "self.nodes == oldSelf.nodes",
                    "nodes cannot be changed: cancel this drain and make another",
                ),
                rule(
                    "self.cancel || !oldSelf.cancel",
                    "a cancelled drain cannot be taken up again: make another",
                ),
            ]),
            _ => None,
        };
    }
}

/// All fields but these stay as they are. A field that may be missing does not come or go either.
fn fixed(spec: &JSONSchemaProps, but: &[&str], message: &str) -> ValidationRule {
    let required = spec.required.as_deref().unwrap_or_default();
    let names = spec.properties.iter().flatten().map(|(name, _)| name);
    let terms = names.filter(|name| !but.contains(&name.as_str())).map(|name| {
        if required.contains(name) {
            format!("self.{name} == oldSelf.{name}")
        } else {
            format!(
                "has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || self.{name} == oldSelf.{name})"
            )
        }
    });
    rule(&terms.collect::<Vec<_>>().join(" && "), message)
}

fn rule(rule: &str, message: &str) -> ValidationRule {
    ValidationRule { rule: rule.to_owned(), message: Some(message.to_owned()), ..ValidationRule::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_that_is_stored_has_a_definition() {
        let defined: Vec<_> = definitions(true).into_iter().map(|one| one.spec.names.kind).collect();
        let stored: Vec<_> = crate::kinds()
            .into_iter()
            .filter(|kind| !kind.is_built_in && !kind.is_review)
            .map(|kind| kind.names.kind)
            .collect();
        assert_eq!(defined, stored);
    }

    #[test]
    fn only_an_instances_pause_and_a_migrations_cancel_can_change() {
        let rules = |kind: &str, rules| {
            let all = definitions(rules);
            let one = all.into_iter().find(|one| one.spec.names.kind == kind).unwrap();
            let schema = one.spec.versions[0].schema.clone().unwrap().open_api_v3_schema.unwrap();
            schema.properties.unwrap()["spec"].x_kubernetes_validations.clone().unwrap_or_default()
        };
        let instance = rules("VirtualMachineInstance", true);
        for field in ["domain", "volumes", "nodeSelector"] {
            assert!(instance[0].rule.contains(&format!("self.{field} == oldSelf.{field}")), "{instance:?}");
        }
        assert!(!instance[0].rule.contains("paused"), "{instance:?}");
        assert!(
            rules("VirtualMachineInstanceMigration", true)[0]
                .rule
                .contains("self.vmiName == oldSelf.vmiName")
        );
        assert!(rules("NodeDrain", true)[0].rule.contains("self.nodes == oldSelf.nodes"));
        assert_eq!(rules("VirtualMachineInstance", false), []);
    }
}
