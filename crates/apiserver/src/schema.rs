//! Objects and their schemas: what a field may be, what it is where it is missing, and which fields there are.

use objects::{FieldError, FieldErrorKind};
use serde_json::{Map, Value};

/// Deeper than this no object is: what is stored must be read again, and readers have limits.
const DEPTH: usize = 64;

/// What came of looking at an object.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Verdict {
    /// Fields that the schema does not have; they were taken out.
    pub(crate) unknown: Vec<String>,
    /// Values that cannot be.
    pub(crate) errors: Vec<FieldError>,
}

/// Fills in what is missing, takes out what there is not, and says what is wrong.
pub(crate) fn apply(value: &mut Value, schema: &Value) -> Verdict {
    let mut verdict = Verdict::default();
    if is_deeper(value, DEPTH) {
        verdict.errors.push(invalid("", "object", "is nested too deeply"));
        return verdict;
    }
    look(value, schema, "", &mut verdict);
    verdict
}

fn look(value: &mut Value, schema: &Value, path: &str, verdict: &mut Verdict) {
    if let Some(message) = mismatch(value, schema) {
        verdict.errors.push(invalid(path, shown(value), &message));
        return;
    }
    match value {
        Value::Object(fields) => object(fields, schema, path, verdict),
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                for (index, item) in items.iter_mut().enumerate() {
                    look(item, schema, &format!("{path}[{index}]"), verdict);
                }
            }
        }
        _ => {}
    }
}

fn object(fields: &mut Map<String, Value>, schema: &Value, path: &str, verdict: &mut Verdict) {
    let properties = schema.get("properties").and_then(Value::as_object);
    let others = schema.get("additionalProperties");
    let keeps_all =
        schema["x-kubernetes-preserve-unknown-fields"] == true || others == Some(&Value::Bool(true));
    let at = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    let is_nullable = |name: &str| {
        properties.and_then(|all| all.get(name)).is_some_and(|schema| schema["nullable"] == true)
    };
    // What is null is not there, unless it may be null.
    fields.retain(|name, value| !value.is_null() || is_nullable(name));
    for (name, schema) in properties.into_iter().flatten() {
        if let Some(default) = schema.get("default")
            && !fields.contains_key(name)
            && !default.is_null()
        {
            fields.insert(name.clone(), default.clone());
        }
    }
    fields.retain(|name, value| {
        if let Some(schema) = properties.and_then(|all| all.get(name)) {
            look(value, schema, &at(name), verdict);
        } else if let Some(schema) = others.filter(|others| others.is_object()) {
            look(value, schema, &at(name), verdict);
        } else if !keeps_all && (properties.is_some() || others.is_some()) {
            verdict.unknown.push(at(name));
            return false;
        }
        true
    });
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
    for name in required.filter_map(Value::as_str).filter(|name| !fields.contains_key(*name)) {
        let error = FieldError { path: at(name), kind: FieldErrorKind::Required, message: String::new() };
        verdict.errors.push(error);
    }
}

/// Whether anything is nested deeper than that.
fn is_deeper(value: &Value, depth: usize) -> bool {
    let Some(below) = depth.checked_sub(1) else { return true };
    match value {
        Value::Object(fields) => fields.values().any(|value| is_deeper(value, below)),
        Value::Array(items) => items.iter().any(|value| is_deeper(value, below)),
        _ => false,
    }
}

/// Why a value cannot be there, by itself.
fn mismatch(value: &Value, schema: &Value) -> Option<String> {
    if value.is_null() && schema["nullable"] == true {
        return None;
    }
    if schema["x-kubernetes-int-or-string"] == true {
        let fits = value.is_i64() || value.is_u64() || value.is_string();
        return (!fits).then(|| "must be a whole number or a string".to_owned());
    }
    let fits = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        _ => true,
    };
    if !fits {
        return Some(format!("must be of type {}", schema["type"].as_str().unwrap_or_default()));
    }
    if let Some(choices) = schema.get("enum").and_then(Value::as_array)
        && !choices.contains(value)
    {
        let choices: Vec<_> =
            choices.iter().filter(|choice| !choice.is_null()).map(ToString::to_string).collect();
        return Some(format!("supported values: {}", choices.join(", ")));
    }
    let below =
        |key: &str| schema[key].as_f64().filter(|limit| value.as_f64().is_some_and(|value| value < *limit));
    let above =
        |key: &str| schema[key].as_f64().filter(|limit| value.as_f64().is_some_and(|value| value > *limit));
    if let Some(limit) = below("minimum") {
        return Some(format!("must be {limit} or more"));
    }
    if let Some(limit) = above("maximum") {
        return Some(format!("must be {limit} or less"));
    }
    let length = value.as_str().map(|text| text.chars().count()).or(value.as_array().map(Vec::len))? as u64;
    let bound =
        |of_text: &str, of_list: &str| schema[if value.is_string() { of_text } else { of_list }].as_u64();
    if let Some(most) = bound("maxLength", "maxItems").filter(|most| length > *most) {
        return Some(format!("must have {most} at most, has {length}"));
    }
    let least = bound("minLength", "minItems").filter(|least| length < *least);
    least.map(|least| format!("must have {least} at least, has {length}"))
}

fn invalid(path: &str, value: impl Into<Value>, message: &str) -> FieldError {
    FieldError {
        path: path.to_owned(),
        kind: FieldErrorKind::Invalid(value.into()),
        message: message.to_owned(),
    }
}

/// A value as a message may show it: short.
fn shown(value: &Value) -> Value {
    match value {
        Value::Object(_) => "object".into(),
        Value::Array(_) => "array".into(),
        Value::String(text) if text.chars().count() > 80 => text.chars().take(80).collect::<String>().into(),
        value => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Value {
        json!({ "type": "object", "required": ["name"], "properties": {
            "name": { "type": "string", "maxLength": 3 },
            "count": { "type": "integer", "minimum": 1, "default": 4 },
            "size": { "x-kubernetes-int-or-string": true },
            "mode": { "type": "string", "enum": ["A", "B"] },
            "labels": { "type": "object", "additionalProperties": { "type": "string" } },
            "list": { "type": "array", "items": { "type": "object", "properties": { "x": { "type": "boolean" } } } },
            "free": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
        }})
    }

    #[test]
    fn defaults_come_in_and_unknown_fields_go_out() {
        let mut value = json!({ "name": "a", "nmae": 1, "list": [{ "x": true, "y": 2 }], "free": { "z": 1 }, "mode": null });
        let verdict = apply(&mut value, &schema());
        assert_eq!(verdict.unknown, ["list[0].y", "nmae"]);
        assert_eq!(verdict.errors, []);
        assert_eq!(value, json!({ "name": "a", "count": 4, "list": [{ "x": true }], "free": { "z": 1 } }));
    }

    #[test]
    fn every_wrong_field_is_named() {
        let mut value = json!({
            "count": 0, "size": 1.5, "mode": "C", "labels": { "a": 1 }, "list": [{ "x": "no" }, 7],
        });
        let paths: Vec<_> = apply(&mut value, &schema()).errors.into_iter().map(|error| error.path).collect();
        assert_eq!(paths, ["count", "labels.a", "list[0].x", "list[1]", "mode", "size", "name"]);
        let error = apply(&mut json!({ "name": "long" }), &schema()).errors.remove(0);
        assert_eq!(error.to_string(), "name: Invalid value: \"long\": must have 3 at most, has 4");
    }

    #[test]
    fn what_is_deep_is_refused() {
        let mut value = json!({});
        for _ in 0..100 {
            value = json!({ "a": value });
        }
        let schema = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
        assert_eq!(apply(&mut value, &schema).errors.len(), 1);
    }
}
