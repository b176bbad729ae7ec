//! ConfigMaps and Secrets: what makes one wrong, and who may read a Secret.

use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use serde_json::Value;

use crate::{
    CloudInitNoCloud, VirtualMachineInstance, VirtualMachineInstanceMigration, VirtualMachineInstanceSpec,
    validation::{Admitted, FieldErrorKind, Review},
};

/// Most bytes that the values of one have together, as in Kubernetes.
const MAX_BYTES: usize = 1 << 20;
/// Longest name of a value.
const MAX_KEY: usize = 253;

pub(crate) fn config_map(review: &mut Review<'_>) -> Admitted {
    let mut admitted = Admitted::default();
    let Some(map) = crate::validation::typed::<ConfigMap>(review, &mut admitted) else { return admitted };
    let (text, bytes) = (map.data.unwrap_or_default(), map.binary_data.unwrap_or_default());
    keys(text.keys(), "data", &mut admitted);
    keys(bytes.keys(), "binaryData", &mut admitted);
    for key in bytes.keys().filter(|key| text.contains_key(*key)) {
        let kind = FieldErrorKind::Duplicate(key.as_str().into());
        admitted.error(format!("binaryData[{key}]"), kind, "there is a text of this name");
    }
    let size = text.values().map(String::len).chain(bytes.values().map(|value| value.0.len())).sum();
    limit(size, &mut admitted);
    fixed(review, &["data", "binaryData"], &mut admitted);
    admitted
}

pub(crate) fn secret(review: &mut Review<'_>) -> Admitted {
    let mut admitted = Admitted::default();
    let Some(mut secret) = crate::validation::typed::<Secret>(review, &mut admitted) else { return admitted };
    // What is written as text is kept as all else is, and read as such.
    if let Some(text) = secret.string_data.take() {
        let data = secret.data.get_or_insert_default();
        data.extend(text.into_iter().map(|(key, value)| (key, ByteString(value.into_bytes()))));
        if let Some(fields) = review.object.as_object_mut() {
            fields.remove("stringData");
            fields.insert("data".to_owned(), serde_json::to_value(&secret.data).unwrap_or(Value::Null));
        }
    }
    let kind = secret.type_.unwrap_or_default();
    if kind.is_empty() {
        review.object["type"] = "Opaque".into();
    }
    let data = secret.data.unwrap_or_default();
    keys(data.keys(), "data", &mut admitted);
    limit(data.values().map(|value| value.0.len()).sum(), &mut admitted);
    if let Some(old) = review.old
        && old["type"] != review.object["type"]
    {
        admitted.error("type", FieldErrorKind::Forbidden, "cannot be changed: make another Secret");
    }
    fixed(review, &["data"], &mut admitted);
    admitted
}

fn keys<'a>(keys: impl Iterator<Item = &'a String>, at: &str, admitted: &mut Admitted) {
    for key in keys {
        let is_key = (1..=MAX_KEY).contains(&key.len())
            && key.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_.".contains(letter))
            && !matches!(key.as_str(), "." | "..");
        if !is_key {
            admitted.invalid(
                format!("{at}[{key}]"),
                key.as_str(),
                "must be 1 to 253 letters, digits, '-', '_' or '.'",
            );
        }
    }
}

fn limit(size: usize, admitted: &mut Admitted) {
    if size > MAX_BYTES {
        admitted.invalid("data", size, format!("must have at most {MAX_BYTES} bytes"));
    }
}

/// What said that it never changes does not, and cannot take that back.
fn fixed(review: &Review<'_>, fields: &[&str], admitted: &mut Admitted) {
    let Some(old) = review.old.filter(|old| old["immutable"] == true) else { return };
    for field in fields.iter().chain(&["immutable"]).filter(|field| old[**field] != review.object[**field]) {
        admitted.error(*field, FieldErrorKind::Forbidden, "it is immutable: make another");
    }
}

/// Whether the agent of a node may read a Secret: one that a machine needs which runs there, or is on its way there. `others` has the objects of a
/// kind, by its plural, in a namespace.
pub(crate) fn is_for_node(node: &str, secret: &Value, others: &dyn Fn(&str, &str) -> Vec<Value>) -> bool {
    let text = |field: &str| secret["metadata"][field].as_str().unwrap_or_default();
    let (namespace, name) = (text("namespace"), text("name"));
    let migrations = || others("virtualmachineinstancemigrations", namespace);
    let mut instances = others("virtualmachineinstances", namespace).into_iter();
    instances.any(|instance| {
        let Ok(instance) = serde_json::from_value::<VirtualMachineInstance>(instance) else { return false };
        if !needs(&instance.spec, name) {
            return false;
        }
        let status = instance.status.as_ref();
        let is_here = status
            .is_some_and(|status| !status.phase().is_final() && status.node_name.as_deref() == Some(node));
        is_here || migrations().into_iter().any(|migration| brings(migration, &instance, node))
    })
}

fn needs(spec: &VirtualMachineInstanceSpec, secret: &str) -> bool {
    let seeds = spec.volumes.iter().filter_map(|volume| volume.cloud_init_no_cloud.as_ref());
    seeds.flat_map(CloudInitNoCloud::secrets).any(|name| name == secret)
}

fn brings(migration: Value, instance: &VirtualMachineInstance, node: &str) -> bool {
    let Ok(migration) = serde_json::from_value::<VirtualMachineInstanceMigration>(migration) else {
        return false;
    };
    let is_its = instance.metadata.name.as_deref() == Some(&migration.spec.vmi_name);
    let status = migration.status.filter(|status| is_its && status.phase().is_under_way());
    status.and_then(|status| status.migration_state?.target_node).as_deref() == Some(node)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn checked(mut object: Value, old: Option<&Value>) -> (Value, Vec<String>) {
        let mut review = Review { object: &mut object, old, others: &|_, _| Vec::new() };
        let errors = secret(&mut review).errors;
        (object, errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn text_becomes_data_and_a_type_is_there() {
        let (stored, errors) =
            checked(json!({ "stringData": { "userdata": "hi" }, "data": { "a": "YQ==" } }), None);
        assert_eq!(errors, Vec::<String>::new());
        assert_eq!(stored, json!({ "type": "Opaque", "data": { "a": "YQ==", "userdata": "aGk=" } }));
        assert_eq!(checked(json!({ "data": { "a": "no base64!" } }), None).1.len(), 1);
        assert_eq!(checked(json!({ "data": { "a/b": "YQ==" } }), None).1.len(), 1);
        assert_eq!(checked(json!({ "stringData": { "a": "x".repeat(MAX_BYTES + 1) } }), None).1.len(), 1);
    }

    #[test]
    fn what_never_changes_does_not() {
        let old = json!({ "type": "Opaque", "immutable": true, "data": { "a": "YQ==" } });
        assert!(checked(old.clone(), Some(&old)).1.is_empty());
        for (field, value) in [("immutable", json!(false)), ("data", json!({})), ("type", json!("other"))] {
            let mut new = old.clone();
            new[field] = value;
            assert_eq!(checked(new, Some(&old)).1.len(), 1, "{field}");
        }
    }

    #[test]
    fn a_node_reads_what_its_own_machines_need() {
        let machine = |name: &str, node: Option<&str>, secret: &str| {
            json!({
                "apiVersion": "whimbrel.dev/v1", "kind": "VirtualMachineInstance", "metadata": { "name": name },
                "spec": {
                    "domain": { "memory": { "guest": "64Mi" }, "firmware": { "kernelBoot": {} } },
                    "volumes": [{ "name": "seed", "cloudInitNoCloud": { "secretRef": { "name": secret } } }],
                },
                "status": { "phase": "Running", "nodeName": node },
            })
        };
        let migration = json!({
            "apiVersion": "whimbrel.dev/v1", "kind": "VirtualMachineInstanceMigration", "metadata": { "name": "m" },
            "spec": { "vmiName": "moves" },
            "status": { "phase": "Scheduled", "migrationState": { "targetNode": "b" } },
        });
        let others = |plural: &str, namespace: &str| match (plural, namespace) {
            ("virtualmachineinstances", "x") => {
                vec![
                    machine("stays", Some("a"), "of-a"),
                    machine("moves", Some("a"), "of-both"),
                    machine("waits", None, "of-none"),
                ]
            }
            ("virtualmachineinstancemigrations", "x") => vec![migration.clone()],
            _ => Vec::new(),
        };
        let may = |node: &str, name: &str, namespace: &str| {
            is_for_node(node, &json!({ "metadata": { "name": name, "namespace": namespace } }), &others)
        };
        assert!(may("a", "of-a", "x") && may("a", "of-both", "x") && may("b", "of-both", "x"));
        assert!(
            !may("b", "of-a", "x")
                && !may("a", "of-none", "x")
                && !may("a", "of-a", "y")
                && !may("a", "other", "x")
        );
    }
}
