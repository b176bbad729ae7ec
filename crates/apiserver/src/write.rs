//! Changing objects: create, replace, patch, apply. Each holds the lock of writers from reading to writing.

use objects::{FieldError, FieldErrorKind, Review, Scope};
use serde_json::{Value, json};
use store::{Entry, Expect, StoreError};

use crate::{
    Api, ApiError, Identity, Reply,
    api::Request,
    form,
    identity::Verb,
    managers, metadata,
    patch::Patch,
    protobuf,
    route::{Query, Target},
    schema,
};

/// What becomes of fields that a schema does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

impl FieldValidation {
    fn of(query: &Query) -> Result<Self, ApiError> {
        match query.get("fieldValidation") {
            None | Some("Warn") => Ok(Self::Warn),
            Some("Ignore") => Ok(Self::Ignore),
            Some("Strict") => Ok(Self::Strict),
            Some(other) => Err(ApiError::bad_request(format!("there is no fieldValidation {other:?}"))),
        }
    }
}

pub(crate) fn is_dry_run(query: &Query) -> Result<bool, ApiError> {
    match query.get("dryRun") {
        None => Ok(false),
        Some("All") => Ok(true),
        Some(other) => Err(ApiError::bad_request(format!("there is no dryRun {other:?}"))),
    }
}

impl Api {
    pub(crate) fn create(
        &self,
        request: &Request,
        identity: &Identity,
        target: &Target,
        query: &Query,
    ) -> Result<Reply, ApiError> {
        if target.kind.scope == Scope::Namespaced && target.namespace.is_none() {
            return Err(ApiError::method_not_allowed("creating without a namespace"));
        }
        let mut object = parse(request)?;
        metadata::identify(&mut object, target)?;
        metadata::begin(&mut object, &target.kind)?;
        identity.check_object(&target.kind, &object)?;
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let target = Target { name: Some(name.clone()), ..target.clone() };
        let _writing = self.writing.lock();
        if self.store.get(&target.key()).is_some() {
            return Err(ApiError::already_exists(&target.kind, &name));
        }
        self.check_namespace(&target)?;
        let warnings = self.admit(&mut object, None, &target, FieldValidation::of(query)?)?;
        managers::note_update(&json!({}), &mut object, &manager(identity, query));
        if !is_dry_run(query)? {
            self.put(&mut object, &target, Expect::Absent)?;
        }
        Ok(Reply { warnings, ..Reply::value(201, object) })
    }

    /// Server-side apply: makes an object what a manager wants of it, whether it is there or not.
    fn apply(
        &self,
        request: &Request,
        identity: &Identity,
        target: &Target,
        query: &Query,
    ) -> Result<Reply, ApiError> {
        if target.is_status {
            return Err(ApiError::unsupported_media_type("a status cannot be applied here: patch it"));
        }
        let Some(manager) = query.get("fieldManager").map(managers::manager_name) else {
            return Err(ApiError::bad_request("fieldManager is required for apply patch"));
        };
        let text =
            std::str::from_utf8(&request.body).map_err(|_| ApiError::bad_request("the body is not UTF-8"))?;
        let mut applied: Value = serde_saphyr::from_str(text)
            .map_err(|error| ApiError::bad_request(format!("the body is not YAML: {error}")))?;
        metadata::identify(&mut applied, target)?;
        if applied["metadata"]["managedFields"].as_array().is_some_and(|list| !list.is_empty()) {
            return Err(ApiError::bad_request("metadata.managedFields must be nil"));
        }
        let is_forced = query.is_true("force");
        let over = |old: &Value| {
            let applied = managers::apply(old, &applied, &manager, is_forced);
            applied.map_err(|conflicts| ApiError::apply_conflict(&conflicts))
        };
        let _writing = self.writing.lock();
        let Some((entry, old)) = self.find_if_any(target)? else {
            identity.check(Verb::Create, target)?;
            let mut begun = json!({
                "apiVersion": applied["apiVersion"], "kind": applied["kind"],
                "metadata": { "name": applied["metadata"]["name"], "namespace": applied["metadata"]["namespace"] },
            });
            metadata::identify(&mut begun, target)?;
            metadata::begin(&mut begun, &target.kind)?;
            let mut object = over(&begun)?;
            identity.check_object(&target.kind, &object)?;
            self.check_namespace(target)?;
            let warnings = self.admit(&mut object, None, target, FieldValidation::of(query)?)?;
            if !is_dry_run(query)? {
                self.put(&mut object, target, Expect::Absent)?;
            }
            return Ok(Reply { warnings, ..Reply::value(201, object) });
        };
        identity.check_object(&target.kind, &old)?;
        let mut new = over(&old)?;
        metadata::set(
            &mut new["metadata"],
            "resourceVersion",
            applied["metadata"]["resourceVersion"].clone(),
        );
        self.replace(new, (&entry, &old), identity, target, query, None)
    }

    /// Replaces an object, or patches it.
    pub(crate) fn update(
        &self,
        request: &Request,
        identity: &Identity,
        target: &Target,
        query: &Query,
    ) -> Result<Reply, ApiError> {
        let media_type = request.content_type.split(';').next().unwrap_or_default().trim();
        if media_type == "application/apply-patch+yaml" && request.method == "PATCH" {
            return self.apply(request, identity, target, query);
        }
        let patch =
            if request.method == "PATCH" { Some(Patch::parse(media_type, &request.body)?) } else { None };
        let _writing = self.writing.lock();
        let (entry, old) = self.find(target)?;
        identity.check_object(&target.kind, &old)?;
        let new = match patch {
            None => parse(request)?,
            Some(patch) => {
                let mut new = old.clone();
                patch.apply(&mut new)?;
                new
            }
        };
        self.replace(new, (&entry, &old), identity, target, query, Some(&manager(identity, query)))
    }

    /// Puts an object in the place of what was found, having checked it. `manager` is who changes fields, where that is not noted yet.
    fn replace(
        &self,
        mut new: Value,
        (entry, old): (&Entry, &Value),
        identity: &Identity,
        target: &Target,
        query: &Query,
        manager: Option<&str>,
    ) -> Result<Reply, ApiError> {
        let name = target.name.as_deref().unwrap_or_default();
        metadata::identify(&mut new, target)?;
        metadata::proceed(&mut new, old, target)?;
        let seen = new["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        if !seen.is_empty() && seen != entry.revision.to_string() {
            let why =
                "the object has been modified; please apply your changes to the latest version and try again";
            return Err(ApiError::conflict(&target.kind, name, why));
        }
        metadata::set(&mut new["metadata"], "resourceVersion", old["metadata"]["resourceVersion"].clone());
        let warnings = self.admit(&mut new, Some(old), target, FieldValidation::of(query)?)?;
        identity.check_change(target, old, &new)?;
        if let Some(manager) = manager.filter(|_| !target.is_status) {
            managers::note_update(old, &mut new, manager);
        }
        if !is_dry_run(query)? {
            let is_deleted = !new["metadata"]["deletionTimestamp"].is_null() && metadata::is_free(&new);
            if is_deleted {
                self.remove(target, entry.revision)?;
            } else if new != *old {
                self.put(&mut new, target, Expect::Revision(entry.revision))?;
            }
        }
        Ok(Reply { warnings, ..Reply::value(200, new) })
    }

    /// Checks an object against its schema and its kind. Returns warnings.
    fn admit(
        &self,
        object: &mut Value,
        old: Option<&Value>,
        target: &Target,
        validation: FieldValidation,
    ) -> Result<Vec<String>, ApiError> {
        let kind = &target.kind;
        let name = target.name.as_deref().unwrap_or_default();
        let verdict = schema::apply(object, &kind.schema);
        let unknown = verdict.unknown.iter().map(|path| format!("unknown field {path:?}"));
        let mut warnings = Vec::new();
        match validation {
            FieldValidation::Strict if !verdict.unknown.is_empty() => {
                let list = unknown.collect::<Vec<_>>().join(", ");
                let message = format!(
                    "{} in version {:?} cannot be handled as a {}: strict decoding error: {list}",
                    kind.names.kind, kind.version, kind.names.kind
                );
                return Err(ApiError::bad_request(message));
            }
            FieldValidation::Warn => warnings.extend(unknown),
            FieldValidation::Strict | FieldValidation::Ignore => {}
        }
        if !verdict.errors.is_empty() {
            return Err(ApiError::invalid(kind, name, &verdict.errors));
        }
        if let Some(old) = old {
            check_finalizers(object, old, target)?;
        }
        // What a status says is its writer's to know.
        if !target.is_status {
            let others = |plural: &str, namespace: &str| self.all(plural, namespace);
            let admitted = kind.admit(&mut Review { object, old, others: &others });
            if !admitted.errors.is_empty() {
                return Err(ApiError::invalid(kind, name, &admitted.errors));
            }
            warnings.extend(admitted.warnings);
        }
        Ok(warnings)
    }

    /// The objects of a kind in a namespace.
    pub(crate) fn all(&self, plural: &str, namespace: &str) -> Vec<Value> {
        let Some(kind) = self.kinds.iter().find(|kind| kind.names.plural == plural) else {
            return Vec::new();
        };
        let namespace = (kind.scope == Scope::Namespaced).then(|| namespace.to_owned());
        let target = Target { kind: kind.clone(), namespace, name: None, is_status: false };
        let page = self.store.list(&target.key(), None, None, usize::MAX);
        let entries = page.map(|page| page.entries).unwrap_or_default();
        entries.iter().filter_map(|(_, entry)| form::object(entry).ok()).collect()
    }

    /// Writes an object, and gives it the version that it has now.
    pub(crate) fn put(&self, object: &mut Value, target: &Target, expect: Expect) -> Result<(), ApiError> {
        let mut stored = object.clone();
        metadata::set(&mut stored["metadata"], "resourceVersion", Value::Null);
        let bytes = stored.to_string();
        let revision =
            self.store.put(&target.key(), expect, bytes.as_bytes()).map_err(|error| match error {
                StoreError::Conflict { .. } => ApiError::conflict(
                    &target.kind,
                    target.name.as_deref().unwrap_or_default(),
                    "it has changed meanwhile",
                ),
                error => error.into(),
            })?;
        object["metadata"]["resourceVersion"] = revision.to_string().into();
        Ok(())
    }

    fn check_namespace(&self, target: &Target) -> Result<(), ApiError> {
        let Some(namespace) = &target.namespace else { return Ok(()) };
        let Some(entry) = self.store.get(&format!("/namespaces/{namespace}")) else {
            return Err(ApiError::new(404, "NotFound", format!("namespaces {namespace:?} not found")));
        };
        if form::object(&entry)?["metadata"]["deletionTimestamp"].is_null() {
            return Ok(());
        }
        let message =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        Err(ApiError::new(403, "Forbidden", message))
    }
}

/// What is being deleted is held by nothing new.
fn check_finalizers(new: &Value, old: &Value, target: &Target) -> Result<(), ApiError> {
    if old["metadata"]["deletionTimestamp"].is_null() {
        return Ok(());
    }
    let list = |object: &Value| object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    let before = list(old);
    let added: Vec<_> = list(new).into_iter().filter(|name| !before.contains(name)).collect();
    if added.is_empty() {
        return Ok(());
    }
    let message = format!(
        "no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"
    );
    let error =
        FieldError { path: "metadata.finalizers".to_owned(), kind: FieldErrorKind::Forbidden, message };
    Err(ApiError::invalid(&target.kind, target.name.as_deref().unwrap_or_default(), &[error]))
}

/// Who changes fields: by the name that a client gives itself, or else its own.
fn manager(identity: &Identity, query: &Query) -> String {
    managers::manager_name(query.get("fieldManager").unwrap_or(&identity.name))
}

pub(crate) fn parse(request: &Request) -> Result<Value, ApiError> {
    let media_type = request.content_type.split(';').next().unwrap_or_default().trim();
    if media_type == "application/vnd.kubernetes.protobuf"
        && let Some(object) = protobuf::object(&request.body)
    {
        return Ok(object);
    }
    if !matches!(media_type, "" | "application/json" | "*/*") {
        return Err(ApiError::unsupported_media_type(format!(
            "bodies are application/json here, not {media_type:?}"
        )));
    }
    serde_json::from_slice(&request.body)
        .map_err(|error| ApiError::bad_request(format!("the body is not JSON: {error}")))
}
