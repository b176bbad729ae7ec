//! Patches: JSON merge patch (RFC 7386), JSON patch (RFC 6902), and the part of strategic merge patches that is the same as a merge.

use serde_json::{Map, Value};

use crate::ApiError;

/// More operations than this are not one change.
const OPERATIONS: usize = 1000;
/// Bytes that the operations of one patch may copy: copies of copies would grow without end.
const COPIED: usize = 2 << 20;

/// What a patch does to an object.
#[derive(Clone, Debug)]
pub(crate) enum Patch {
    Merge(Value),
    Operations(Vec<Value>),
}

impl Patch {
    /// A patch by its media type.
    pub(crate) fn parse(media_type: &str, body: &[u8]) -> Result<Self, ApiError> {
        let value: Value = serde_json::from_slice(body)
            .map_err(|error| ApiError::bad_request(format!("the patch is not JSON: {error}")))?;
        match media_type {
            "application/merge-patch+json" => Ok(Self::Merge(value)),
            "application/strategic-merge-patch+json" if is_merge(&value) => Ok(Self::Merge(value)),
            "application/strategic-merge-patch+json" => Err(ApiError::unsupported_media_type(
                "strategic merge patches with lists or directives are not supported here: use --type=merge or --type=json",
            )),
            "application/json-patch+json" => match value {
                Value::Array(operations) if operations.len() <= OPERATIONS => {
                    Ok(Self::Operations(operations))
                }
                _ => Err(ApiError::bad_request(format!(
                    "a JSON patch is a list of up to {OPERATIONS} operations"
                ))),
            },
            other => {
                Err(ApiError::unsupported_media_type(format!("patches of type {other:?} are not supported")))
            }
        }
    }

    pub(crate) fn apply(&self, object: &mut Value) -> Result<(), ApiError> {
        match self {
            Self::Merge(patch) => {
                merge(object, patch);
                Ok(())
            }
            Self::Operations(operations) => {
                let mut left = COPIED;
                for (index, operation) in operations.iter().enumerate() {
                    operate(object, operation, &mut left).map_err(|why| {
                        ApiError::new(
                            422,
                            "Invalid",
                            format!("operation {index} of the patch cannot be done: {why}"),
                        )
                    })?;
                }
                Ok(())
            }
        }
    }
}

/// Whether a strategic merge patch means what it would mean as a merge patch: lists would be merged by keys.
fn is_merge(patch: &Value) -> bool {
    match patch {
        Value::Object(fields) => fields.iter().all(|(name, value)| !name.starts_with('$') && is_merge(value)),
        Value::Array(_) => false,
        _ => true,
    }
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(object) = target.as_object_mut() else { return };
    for (name, value) in fields {
        if value.is_null() {
            object.remove(name);
        } else {
            merge(object.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

fn operate(object: &mut Value, operation: &Value, left: &mut usize) -> Result<(), String> {
    let text = |name: &str| operation[name].as_str().ok_or_else(|| format!("it has no {name}"));
    let value = || operation.get("value").cloned().ok_or("it has no value");
    let path = text("path")?;
    match text("op")? {
        "add" => add(object, path, value()?),
        "replace" => {
            let value = value()?;
            *object.pointer_mut(path).ok_or_else(|| format!("there is nothing at {path}"))? = value;
            Ok(())
        }
        "remove" => remove(object, path).map(drop),
        "move" => {
            let from = text("from")?;
            if path.starts_with(&format!("{from}/")) {
                return Err("nothing can be moved into itself".to_owned());
            }
            let moved = remove(object, from)?;
            add(object, path, moved)
        }
        "copy" => {
            let from = text("from")?;
            let copied =
                object.pointer(from).cloned().ok_or_else(|| format!("there is nothing at {from}"))?;
            *left = left
                .checked_sub(copied.to_string().len())
                .ok_or_else(|| format!("the patch copies more than {COPIED} bytes"))?;
            add(object, path, copied)
        }
        "test" => {
            let is_same = object.pointer(path) == operation.get("value");
            if is_same { Ok(()) } else { Err(format!("the value at {path} is another one")) }
        }
        other => Err(format!("there is no operation {other}")),
    }
}

fn add(object: &mut Value, path: &str, value: Value) -> Result<(), String> {
    if path.is_empty() {
        *object = value;
        return Ok(());
    }
    let (parent, name) = parent(object, path)?;
    match parent {
        Value::Object(fields) => {
            fields.insert(name, value);
        }
        Value::Array(items) => {
            let at = if name == "-" { items.len() } else { index(&name)? };
            if at > items.len() {
                return Err(format!("the list at {path} is shorter"));
            }
            items.insert(at, value);
        }
        _ => return Err(format!("there is nothing to hold {path}")),
    }
    Ok(())
}

fn remove(object: &mut Value, path: &str) -> Result<Value, String> {
    let nothing = || format!("there is nothing at {path}");
    let (parent, name) = parent(object, path)?;
    match parent {
        Value::Object(fields) => fields.remove(&name).ok_or_else(nothing),
        Value::Array(items) => {
            let at = index(&name)?;
            if at < items.len() { Ok(items.remove(at)) } else { Err(nothing()) }
        }
        _ => Err(nothing()),
    }
}

fn parent<'a>(object: &'a mut Value, path: &str) -> Result<(&'a mut Value, String), String> {
    let (above, name) = path.rsplit_once('/').ok_or_else(|| format!("{path} is no path"))?;
    let parent = object.pointer_mut(above).ok_or_else(|| format!("there is nothing at {above}"))?;
    Ok((parent, name.replace("~1", "/").replace("~0", "~")))
}

fn index(name: &str) -> Result<usize, String> {
    name.parse().map_err(|_| format!("{name} is no position in a list"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(media_type: &str, mut object: Value, patch: &Value) -> Result<Value, ApiError> {
        Patch::parse(media_type, patch.to_string().as_bytes())?.apply(&mut object)?;
        Ok(object)
    }

    #[test]
    fn a_merge_replaces_lists_and_removes_nulls() {
        let object = json!({ "a": { "b": 1, "c": [1, 2] }, "d": 1 });
        let patch = json!({ "a": { "b": null, "c": [3] }, "e": { "f": null } });
        let merged = patched("application/merge-patch+json", object, &patch);
        assert_eq!(merged, Ok(json!({ "a": { "c": [3] }, "d": 1, "e": {} })));
    }

    #[test]
    fn operations_are_done_in_order_or_not_at_all() {
        let patch = |operations| {
            patched("application/json-patch+json", json!({ "a": [1, 2], "b": { "x/y": 1 } }), &operations)
        };
        let good = json!([
            { "op": "test", "path": "/a/0", "value": 1 },
            { "op": "add", "path": "/a/-", "value": 3 },
            { "op": "remove", "path": "/b/x~1y" },
            { "op": "move", "from": "/a/0", "path": "/c" },
            { "op": "copy", "from": "/c", "path": "/a/1" },
            { "op": "replace", "path": "/a/0", "value": 9 },
        ]);
        assert_eq!(patch(good), Ok(json!({ "a": [9, 1, 3], "b": {}, "c": 1 })));
        for wrong in [
            json!([{ "op": "test", "path": "/a/0", "value": 2 }]),
            json!([{ "op": "remove", "path": "/a/7" }]),
            json!([{ "op": "add", "path": "/a/7", "value": 1 }]),
            json!([{ "op": "add", "path": "x", "value": 1 }]),
            json!([{ "op": "move", "from": "/b", "path": "/b/c" }]),
            json!([{ "op": "grow", "path": "/a" }]),
            json!([{ "op": "add", "path": "/a/0" }]),
            json!([7]),
        ] {
            assert_eq!(patch(wrong.clone()).unwrap_err().code, 422, "{wrong}");
        }
        assert_eq!(patch(json!({})).unwrap_err().code, 400);
        let double = json!({ "op": "copy", "from": "", "path": "/a/-" });
        assert_eq!(patch(vec![double; 100].into()).unwrap_err().code, 422, "it would grow for ever");
    }

    #[test]
    fn of_strategic_patches_those_that_are_merges_are_done() {
        let kind = "application/strategic-merge-patch+json";
        let cordon = json!({ "spec": { "unschedulable": true } });
        assert_eq!(patched(kind, json!({}), &cordon), Ok(cordon.clone()));
        assert_eq!(patched(kind, json!({}), &json!({ "spec": { "taints": [] } })).unwrap_err().code, 415);
    }
}
