//! Entries of the store as objects, and objects in the form that a client wants.

use jiff::Timestamp;
use objects::Kind;
use serde_json::{Value, json};
use store::Entry;

use crate::{
    ApiError,
    route::Query,
    table::{self, Include},
};

/// In what form a client wants objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As they are.
    Objects,
    /// As rows of a table.
    Table(Include),
}

impl Form {
    pub(crate) fn of(accept: &str, query: &Query) -> Self {
        let wants_table = accept.split(',').next().is_some_and(|first| {
            let has = |part: &str| first.split(';').any(|found| found.trim() == part);
            has("as=Table") && has("g=meta.k8s.io") && has("v=v1")
        });
        match (wants_table, query.get("includeObject")) {
            (false, _) => Self::Objects,
            (true, Some("None")) => Self::Table(Include::None),
            (true, Some("Object")) => Self::Table(Include::Object),
            (true, _) => Self::Table(Include::Metadata),
        }
    }

    /// One object in this form.
    pub(crate) fn one(self, kind: &Kind, object: Value) -> Value {
        match self {
            Self::Objects => object,
            Self::Table(include) => {
                let metadata = json!({ "resourceVersion": object["metadata"]["resourceVersion"] });
                table::table(kind, &[object], &metadata, include, Timestamp::now())
            }
        }
    }
}

/// An entry of the store as an object.
pub(crate) fn object(entry: &Entry) -> Result<Value, ApiError> {
    let mut object: Value = serde_json::from_slice(&entry.value)
        .map_err(|error| ApiError::internal(format!("an object in the store is not JSON: {error}")))?;
    object["metadata"]["resourceVersion"] = entry.revision.to_string().into();
    Ok(object)
}

/// An entry of the store as the text of an object, with the version that it has at `revision`. Who wants objects as they are gets them so, and
/// nothing is parsed for it: lists and watches are long.
pub(crate) fn text(entry: &Entry, revision: u64) -> Result<Vec<u8>, ApiError> {
    let inside = metadata_at(&entry.value)
        .ok_or_else(|| ApiError::internal("an object in the store has no metadata"))?;
    let (before, after) = entry.value.split_at(inside);
    // There is a name at least, so that something follows.
    let version = format!("\"resourceVersion\":\"{revision}\",");
    Ok([before, version.as_bytes(), after].concat())
}

/// Where the fields of an object's metadata begin in its text.
fn metadata_at(text: &[u8]) -> Option<usize> {
    let mut depth = 0_u32;
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.checked_sub(1)?,
            b'"' => {
                let end = string_end(text, at)?;
                if depth == 1
                    && text.get(at..end)? == b"\"metadata\""
                    && text.get(end..)?.starts_with(b":{\"")
                {
                    return Some(end + 2);
                }
                at = end;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// Where the string that begins at a place has ended.
fn string_end(text: &[u8], begin: usize) -> Option<usize> {
    let mut at = begin + 1;
    loop {
        match text.get(at)? {
            b'\\' => at += 2,
            b'"' => return Some(at + 1),
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(value: &Value) -> Entry {
        Entry { revision: 7, value: value.to_string().into_bytes().into() }
    }

    #[test]
    fn text_is_the_object_with_its_version() {
        for value in [
            json!({ "metadata": { "name": "a" } }),
            json!({ "a": { "metadata": { "x": 1 } }, "metadata": { "name": "a", "labels": {} }, "z": ["metadata"] }),
            json!({ "a": "\"metadata\":{\"\\", "metadata": { "name": "{[\"" }, "spec": { "metadata": {} } }),
        ] {
            let entry = entry(&value);
            let read: Value = serde_json::from_slice(&text(&entry, 7).unwrap()).unwrap();
            assert_eq!(read, object(&entry).unwrap());
        }
    }

    #[test]
    fn what_is_no_object_has_no_text() {
        for wrong in ["", "{", "}", "[]", "{\"metadata\":{}}", "{\"metadata", "{\"metadata\":3}", "\"\\"] {
            let entry = Entry { revision: 1, value: wrong.as_bytes().into() };
            assert!(text(&entry, 1).is_err(), "{wrong}");
        }
    }
}
