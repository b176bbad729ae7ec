//! Objects as rows, the way `kubectl get` shows them: the server knows the columns, so that clients need not.

use jiff::Timestamp;
use objects::{Column, Kind};
use serde_json::{Value, json};

use crate::jsonpath;

/// How much of an object goes along with its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Include {
    /// Nothing.
    None,
    /// Its metadata.
    Metadata,
    /// All of it.
    Object,
}

/// A table of objects.
pub(crate) fn table(
    kind: &Kind,
    objects: &[Value],
    metadata: &Value,
    include: Include,
    now: Timestamp,
) -> Value {
    let rows: Vec<_> = objects.iter().map(|object| row(kind, object, include, now)).collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": columns(kind), "rows": rows,
    })
}

fn columns(kind: &Kind) -> Vec<Value> {
    let name =
        json!({ "name": "Name", "type": "string", "format": "name", "description": "", "priority": 0 });
    let others = kind.columns.iter().map(|column| {
        // A date is shown as the time since then.
        let shown = if column.kind == "date" { "string" } else { &column.kind };
        json!({
            "name": column.name, "type": shown, "format": "", "description": column.description,
            "priority": column.priority,
        })
    });
    std::iter::once(name).chain(others).collect()
}

fn row(kind: &Kind, object: &Value, include: Include, now: Timestamp) -> Value {
    let others = kind.columns.iter().map(|column| cell(object, column, now));
    let cells: Vec<_> = std::iter::once(object["metadata"]["name"].clone()).chain(others).collect();
    match include {
        Include::None => json!({ "cells": cells }),
        Include::Object => json!({ "cells": cells, "object": object }),
        Include::Metadata => json!({ "cells": cells, "object": {
            "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"],
        }}),
    }
}

fn cell(object: &Value, column: &Column, now: Timestamp) -> Value {
    match (jsonpath::find(object, &column.path), column.kind.as_str()) {
        (None | Some(Value::Null), "date") => "<unknown>".into(),
        (None | Some(Value::Null), _) => Value::Null,
        (Some(Value::String(time)), "date") => match time.parse::<Timestamp>() {
            Ok(time) => age(now.duration_since(time).as_secs()).into(),
            Err(_) => "<invalid>".into(),
        },
        (Some(value @ (Value::Object(_) | Value::Array(_))), _) => value.to_string().into(),
        (Some(value), "string") if !value.is_string() => value.to_string().into(),
        (Some(value), _) => value.clone(),
    }
}

/// A time span as kubectl writes it: two units at most, the second only where it says something.
fn age(seconds: i64) -> String {
    let (minute, hour, day) = (60, 3600, 24 * 3600);
    let two = |value: i64, unit: i64, name: &str, below: i64, below_name: &str| match value % unit / below {
        0 => format!("{}{name}", value / unit),
        rest => format!("{}{name}{rest}{below_name}", value / unit),
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => two(seconds, minute, "m", 1, "s"),
        600..10_800 => format!("{}m", seconds / minute),
        10_800..28_800 => two(seconds, hour, "h", minute, "m"),
        28_800..172_800 => format!("{}h", seconds / hour),
        172_800..691_200 => two(seconds, day, "d", hour, "h"),
        691_200..63_072_000 => format!("{}d", seconds / day),
        _ => two(seconds, 365 * day, "y", day, "d"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_written_as_kubectl_writes_them() {
        for (seconds, text) in [
            (-5, "<invalid>"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (3600, "60m"),
            (3 * 3600 + 60, "3h1m"),
            (47 * 3600, "47h"),
            (50 * 3600, "2d2h"),
            (30 * 86400, "30d"),
            (800 * 86400, "2y70d"),
        ] {
            assert_eq!(age(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn a_row_has_a_cell_for_every_column() {
        let kind = objects::kinds()
            .into_iter()
            .find(|kind| kind.names.singular == "virtualmachineinstance")
            .unwrap();
        let object = json!({ "metadata": { "name": "busy" }, "status": {
            "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }],
        }});
        let table = table(&kind, &[object], &json!({}), Include::None, Timestamp::UNIX_EPOCH);
        let cells = table["rows"][0]["cells"].as_array().unwrap();
        assert_eq!(cells.len(), table["columnDefinitions"].as_array().unwrap().len());
        assert_eq!(
            cells[..5],
            [json!("busy"), json!("<unknown>"), json!("Running"), Value::Null, json!("True")]
        );
    }
}
