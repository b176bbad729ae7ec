//! The part of an object that is the server's: identity, times, generation, deletion.

use jiff::{Timestamp, TimestampRound, Unit};
use objects::{FieldError, FieldErrorKind, Kind};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{ApiError, route::Target};

/// Now, as Kubernetes writes times: to the second.
pub(crate) fn now() -> String {
    let now = Timestamp::now();
    now.round(TimestampRound::new().smallest(Unit::Second).mode(jiff::RoundMode::Trunc))
        .unwrap_or(now)
        .to_string()
}

/// Makes what a client sent an object that could be of this target: its kind, name and namespace.
pub(crate) fn identify(object: &mut Value, target: &Target) -> Result<(), ApiError> {
    let kind = &target.kind;
    if !object.is_object() {
        return Err(ApiError::bad_request("the body is not an object"));
    }
    for (field, wanted) in [("apiVersion", kind.api_version()), ("kind", kind.names.kind.clone())] {
        match &object[field] {
            Value::Null => object[field] = wanted.into(),
            found if *found == wanted => {}
            found => {
                return Err(ApiError::bad_request(format!(
                    "the {field} in the body is {found}, but here it is {wanted}"
                )));
            }
        }
    }
    if !matches!(object["metadata"], Value::Object(_)) {
        object["metadata"] = json!({});
    }
    let metadata = &mut object["metadata"];
    for (field, wanted) in [("namespace", &target.namespace), ("name", &target.name)] {
        match (metadata[field].as_str(), wanted) {
            (None | Some(""), Some(wanted)) => metadata[field] = wanted.as_str().into(),
            (Some(found), Some(wanted)) if found != wanted => {
                let message = format!(
                    "the {field} of the object ({found}) does not match the {field} on the URL ({wanted})"
                );
                return Err(ApiError::bad_request(message));
            }
            _ => {}
        }
    }
    if target.namespace.is_none() {
        remove(metadata, &["namespace"]);
    }
    remove(metadata, &["selfLink"]);
    Ok(())
}

/// Gives a new object what is the server's to give.
pub(crate) fn begin(object: &mut Value, kind: &Kind) -> Result<(), ApiError> {
    let metadata = &mut object["metadata"];
    if metadata["resourceVersion"].as_str().is_some_and(|version| !version.is_empty()) {
        return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    if metadata["name"].as_str().is_none_or(str::is_empty)
        && let Some(prefix) = metadata["generateName"].as_str().filter(|prefix| !prefix.is_empty())
    {
        let suffix = Uuid::new_v4().simple().to_string();
        metadata["name"] = format!("{prefix}{}", &suffix[..5]).into();
    }
    let name = metadata["name"].as_str().unwrap_or_default().to_owned();
    if let Some(message) = wrong_name(&name) {
        let kind_of_error = if name.is_empty() {
            FieldErrorKind::Required
        } else {
            FieldErrorKind::Invalid(name.as_str().into())
        };
        let error =
            FieldError { path: "metadata.name".to_owned(), kind: kind_of_error, message: message.to_owned() };
        return Err(ApiError::invalid(kind, &name, &[error]));
    }
    remove(
        metadata,
        &["resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds", "managedFields"],
    );
    metadata["uid"] = Uuid::new_v4().to_string().into();
    metadata["creationTimestamp"] = now().into();
    metadata["generation"] = 1.into();
    if kind.has_status {
        remove(object, &["status"]);
    }
    Ok(())
}

/// Makes `new` what may come of `old`: what is the server's stays, a part that is not meant stays, and the generation goes up where what
/// is wanted has changed.
pub(crate) fn proceed(new: &mut Value, old: &Value, target: &Target) -> Result<(), ApiError> {
    let kind = &target.kind;
    if target.is_status {
        let status = new["status"].take();
        let version = new["metadata"]["resourceVersion"].take();
        *new = old.clone();
        new["metadata"]["resourceVersion"] = version;
        set(new, "status", status);
        return Ok(());
    }
    let name = old["metadata"]["name"].as_str().unwrap_or_default();
    let (before, metadata) = (&old["metadata"], &mut new["metadata"]);
    if let Some(uid) = metadata["uid"].as_str().filter(|uid| !uid.is_empty())
        && before["uid"] != uid
    {
        return Err(ApiError::conflict(
            kind,
            name,
            &format!("the UID in the body is {uid}, another object's"),
        ));
    }
    for field in ["uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds"]
    {
        set(metadata, field, before[field].clone());
    }
    if metadata["managedFields"].is_null() {
        set(metadata, "managedFields", before["managedFields"].clone());
    }
    if kind.has_status {
        set(new, "status", old["status"].clone());
    }
    let is_another =
        |field: &String| !matches!(field.as_str(), "metadata" | "status") && old[field] != new[field];
    let fields: Vec<_> = [old, new]
        .iter()
        .filter_map(|object| object.as_object())
        .flat_map(|all| all.keys())
        .cloned()
        .collect();
    if fields.iter().any(is_another) {
        new["metadata"]["generation"] = (old["metadata"]["generation"].as_u64().unwrap_or(0) + 1).into();
    }
    Ok(())
}

/// Whether nothing holds an object that shall be deleted.
pub(crate) fn is_free(object: &Value) -> bool {
    object["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty)
}

/// Sets a field, or takes it away where the value is null.
pub(crate) fn set(object: &mut Value, field: &str, value: Value) {
    if value.is_null() {
        remove(object, &[field]);
    } else {
        object[field] = value;
    }
}

fn remove(object: &mut Value, fields: &[&str]) {
    if let Some(object) = object.as_object_mut() {
        fields.iter().for_each(|field| {
            object.remove(*field);
        });
    }
}

/// Why that is no name: names are those of DNS (RFC 1123), in lower case.
fn wrong_name(name: &str) -> Option<&'static str> {
    let is_label = |label: &str| {
        let ends = |letter: Option<u8>| letter.is_some_and(|letter| letter.is_ascii_alphanumeric());
        let is_allowed =
            |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'-';
        label.bytes().all(is_allowed) && ends(label.bytes().next()) && ends(label.bytes().last())
    };
    if name.is_empty() {
        return Some("name or generateName is required");
    }
    (name.len() > 253 || !name.split('.').all(is_label)).then_some(
        "must be a DNS name of at most 253 lower-case letters, digits, '-' and '.', with a letter or digit at both ends of each part",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_dns() {
        for good in ["a", "busy", "a-1.b", "0"] {
            assert_eq!(wrong_name(good), None, "{good}");
        }
        for wrong in ["", "A", "-a", "a-", "a..b", "a/b", "ä", "a_b", &"a".repeat(254)] {
            assert!(wrong_name(wrong).is_some(), "{wrong}");
        }
    }

    #[test]
    fn times_are_to_the_second() {
        assert_eq!(now().len(), "2026-01-01T00:00:00Z".len(), "{}", now());
    }
}
