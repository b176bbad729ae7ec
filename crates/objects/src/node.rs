use serde_json::Value;

/// Machines that a sentence names.
const NAMED: usize = 5;

/// Why a node cannot be taken out of the fleet: machines are on it, or on their way to it. `others` has the objects of a kind in all namespaces.
pub(crate) fn why_kept(node: &Value, others: &dyn Fn(&str, &str) -> Vec<Value>) -> Option<String> {
    let name = node["metadata"]["name"].as_str()?;
    let is_over = |phase: &Value| matches!(phase.as_str(), Some("Succeeded" | "Failed"));
    let mut there = Vec::new();
    for instance in others("virtualmachineinstances", "") {
        let status = &instance["status"];
        if status["nodeName"] == name && !is_over(&status["phase"]) {
            there.push(full_name(&instance, &instance["metadata"]["name"]));
        }
    }
    for migration in others("virtualmachineinstancemigrations", "") {
        let status = &migration["status"];
        if status["migrationState"]["targetNode"] == name && !is_over(&status["phase"]) {
            there.push(full_name(&migration, &migration["spec"]["vmiName"]));
        }
    }
    there.sort();
    there.dedup();
    let count = there.len();
    there.truncate(NAMED);
    let others = count.saturating_sub(NAMED);
    let others = if others > 0 { format!(" and {others} more") } else { String::new() };
    (count > 0).then(|| {
        format!(
            "machines are there, or on their way: {}{others}. Drain it first; of a host that is off for good delete them, and take off their \
             finalizers, which says that they run nowhere",
            there.join(", ")
        )
    })
}

fn full_name(object: &Value, name: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    format!("{}/{}", text(&object["metadata"]["namespace"]), text(name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_is_kept_while_machines_are_there_or_come() {
        let others = |plural: &str, _: &str| match plural {
            "virtualmachineinstances" => vec![
                json!({ "metadata": { "namespace": "x", "name": "runs" }, "status": { "phase": "Running", "nodeName": "a" } }),
                json!({ "metadata": { "namespace": "x", "name": "ended" }, "status": { "phase": "Failed", "nodeName": "b" } }),
            ],
            _ => vec![
                json!({
                    "metadata": { "namespace": "x" }, "spec": { "vmiName": "runs" },
                    "status": { "phase": "Running", "migrationState": { "sourceNode": "a", "targetNode": "c" } },
                }),
                json!({
                    "metadata": { "namespace": "x" }, "spec": { "vmiName": "moved" },
                    "status": { "phase": "Succeeded", "migrationState": { "targetNode": "b" } },
                }),
            ],
        };
        let why = |name: &str| why_kept(&json!({ "metadata": { "name": name } }), &others);
        assert!(why("a").unwrap().contains("x/runs") && why("c").unwrap().contains("x/runs"));
        assert_eq!(why("b"), None);
    }
}
