//! Refusals, as Kubernetes' `metav1.Status`: clients decide by its code and reason, people read its message.

use objects::{FieldError, Kind};
use serde_json::{Value, json};
use store::StoreError;

/// A request that was not done.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The status code of HTTP.
    pub code: u16,
    /// In one word, by which clients tell refusals with the same code apart.
    pub reason: &'static str,
    /// In a sentence.
    pub message: String,
    details: Value,
}

impl ApiError {
    pub(crate) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: Value::Null }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(500, "InternalError", message)
    }

    /// There is no such address.
    pub(crate) fn no_page() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    pub(crate) fn not_found(kind: &Kind, name: &str) -> Self {
        Self::about(kind, name, 404, "NotFound", format!("{} {name:?} not found", qualified(kind)))
    }

    pub(crate) fn already_exists(kind: &Kind, name: &str) -> Self {
        Self::about(kind, name, 409, "AlreadyExists", format!("{} {name:?} already exists", qualified(kind)))
    }

    pub(crate) fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", qualified(kind));
        Self::about(kind, name, 409, "Conflict", message)
    }

    /// Fields that a manager applies are others': whose, and which.
    pub(crate) fn apply_conflict(conflicts: &[(String, String)]) -> Self {
        let noun = if conflicts.len() == 1 { "conflict" } else { "conflicts" };
        let list: Vec<_> =
            conflicts.iter().map(|(whose, path)| format!("conflict with {whose:?}: {path}")).collect();
        let causes: Vec<_> = conflicts
            .iter()
            .map(|(whose, path)| {
                let message = format!("conflict with {whose:?}");
                json!({ "reason": "FieldManagerConflict", "message": message, "field": path })
            })
            .collect();
        let message = format!("Apply failed with {} {noun}: {}", conflicts.len(), list.join(", "));
        Self { code: 409, reason: "Conflict", message, details: json!({ "causes": causes }) }
    }

    pub(crate) fn method_not_allowed(what: &str) -> Self {
        Self::new(405, "MethodNotAllowed", format!("{what} is not supported on this resource"))
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    pub(crate) fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(415, "UnsupportedMediaType", message)
    }

    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    pub(crate) fn forbidden(user: &str, message: &str) -> Self {
        Self::new(403, "Forbidden", format!("forbidden: User {user:?} {message}"))
    }

    /// What is wrong with the fields of an object, all of it at once.
    pub(crate) fn invalid(kind: &Kind, name: &str, errors: &[FieldError]) -> Self {
        let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
        let list = if let [one] = texts.as_slice() { one.clone() } else { format!("[{}]", texts.join(", ")) };
        let message = format!("{} {name:?} is invalid: {list}", qualified_kind(kind));
        let causes: Vec<_> = errors
            .iter()
            .map(|error| {
                let message = format!("{}{}", error.kind, error.message);
                json!({ "reason": error.kind.reason(), "message": message, "field": error.path })
            })
            .collect();
        let details = json!({ "name": name, "group": kind.group, "kind": kind.names.kind, "causes": causes });
        Self { code: 422, reason: "Invalid", message, details }
    }

    fn about(kind: &Kind, name: &str, code: u16, reason: &'static str, message: String) -> Self {
        let details = json!({ "name": name, "group": kind.group, "kind": kind.names.plural });
        Self { code, reason, message, details }
    }

    /// As an object for clients.
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Compacted { asked, oldest } => {
                Self::expired(format!("too old resource version: {asked} ({oldest})"))
            }
            StoreError::Future { asked, latest } => {
                Self::new(504, "Timeout", format!("Too large resource version: {asked}, current: {latest}"))
            }
            StoreError::Conflict { .. } => Self::new(409, "Conflict", error.to_string()),
            StoreError::TooLong { .. } => Self::new(413, "RequestEntityTooLarge", error.to_string()),
            _ => Self::internal(with_source(&error)),
        }
    }
}

fn with_source(error: &StoreError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// `virtualmachines.whimbrel.dev`, as Kubernetes names a resource in messages.
pub(crate) fn qualified(kind: &Kind) -> String {
    if kind.group.is_empty() {
        kind.names.plural.clone()
    } else {
        format!("{}.{}", kind.names.plural, kind.group)
    }
}

fn qualified_kind(kind: &Kind) -> String {
    if kind.group.is_empty() {
        kind.names.kind.clone()
    } else {
        format!("{}.{}", kind.names.kind, kind.group)
    }
}
