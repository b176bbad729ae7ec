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
