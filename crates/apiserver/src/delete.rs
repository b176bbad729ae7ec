//! Deleting objects: one, those of a list, and a namespace with what is in it.

use objects::Scope;
use serde_json::{Value, json};
use store::{Entry, Expect};

use crate::{
    Api, ApiError, Reply,
    api::Request,
    form::object,
    metadata,
    route::{Query, Target},
    selector::Selector,
    write::is_dry_run,
};

/// What a client says beside what to delete.
struct Options {
    body: Value,
    is_dry: bool,
}

impl Options {
    fn of(request: &Request, query: &Query) -> Result<Self, ApiError> {
        let body: Value = if request.body.is_empty() {
            json!({})
        } else {
            serde_json::from_slice(&request.body)
                .map_err(|error| ApiError::bad_request(format!("the options are not JSON: {error}")))?
        };
        let is_dry = is_dry_run(query)? || body["dryRun"].as_array().is_some_and(|list| !list.is_empty());
        Ok(Self { body, is_dry })
    }
}

impl Api {
    pub(crate) fn delete(
        &self,
        request: &Request,
        target: &Target,
        query: &Query,
    ) -> Result<Reply, ApiError> {
        let options = Options::of(request, query)?;
        let _writing = self.writing.lock();
        let (entry, object) = self.find(target)?;
        let name = target.name.as_deref().unwrap_or_default();
        for field in ["uid", "resourceVersion"] {
            let wanted = &options.body["preconditions"][field];
            if !wanted.is_null() && *wanted != object["metadata"][field] {
                let why = format!(
                    "the precondition {field} is {wanted}, but the object has {}",
                    object["metadata"][field]
                );
                return Err(ApiError::conflict(&target.kind, name, &why));
            }
        }
        if target.kind.names.plural == "namespaces" && name == "default" {
            let message = "namespaces \"default\" is forbidden: this namespace may not be deleted";
            return Err(ApiError::new(403, "Forbidden", message));
        }
        let uid = object["metadata"]["uid"].clone();
        if let Some(held) = self.delete_one(target, &entry, object, options.is_dry)? {
            return Ok(Reply::value(200, held));
        }
        let details = json!({
            "name": name, "group": target.kind.group, "kind": target.kind.names.plural, "uid": uid,
        });
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
        });
        Ok(Reply::value(200, status))
    }

    /// Deletes all objects of a list that selectors let through.
    pub(crate) fn delete_all(
        &self,
        request: &Request,
        target: &Target,
        query: &Query,
    ) -> Result<Reply, ApiError> {
        let kind = &target.kind;
        if kind.names.plural == "namespaces"
            || (kind.scope == Scope::Namespaced && target.namespace.is_none())
        {
            return Err(ApiError::method_not_allowed("DELETE"));
        }
        let options = Options::of(request, query)?;
        let selector = Selector::parse(query.get("labelSelector"), query.get("fieldSelector"))?;
        let _writing = self.writing.lock();
        let page = self.store.list(&target.key(), None, None, usize::MAX)?;
        let mut items = Vec::new();
        for (_, entry) in &page.entries {
            let object = object(entry)?;
            if !selector.matches(&object) {
                continue;
            }
            let name = object["metadata"]["name"].as_str().map(str::to_owned);
            let one = Target { name, ..target.clone() };
            let held = self.delete_one(&one, entry, object.clone(), options.is_dry)?;
            items.push(held.unwrap_or(object));
        }
        let list = json!({
            "kind": format!("{}List", kind.names.kind), "apiVersion": kind.api_version(),
            "metadata": { "resourceVersion": self.store.revision().to_string() }, "items": items,
        });
        Ok(Reply::value(200, list))
    }

    /// Deletes an object, or marks it where something holds it, and returns it then.
    fn delete_one(
        &self,
        target: &Target,
        entry: &Entry,
        mut object: Value,
        is_dry: bool,
    ) -> Result<Option<Value>, ApiError> {
        let name = target.name.as_deref().unwrap_or_default();
        if let Some(why) = target.kind.why_kept(&object, &|plural, namespace| self.all_in(plural, namespace))
        {
            return Err(ApiError::conflict(&target.kind, name, &why));
        }
        if metadata::is_free(&object) {
            if !is_dry {
                if target.kind.names.plural == "nodes" {
                    self.forget_node(name)?;
                }
                self.remove(target, entry.revision)?;
            }
            return Ok(None);
        }
        if object["metadata"]["deletionTimestamp"].is_null() {
            object["metadata"]["deletionTimestamp"] = metadata::now().into();
            object["metadata"]["deletionGracePeriodSeconds"] = 0.into();
            if target.kind.names.plural == "namespaces" {
                object["status"] = json!({ "phase": "Terminating" });
            }
            if !is_dry {
                self.put(&mut object, target, Expect::Revision(entry.revision))?;
            }
        }
        Ok(Some(object))
    }

    /// The objects of a kind in a namespace, or in all where that is empty.
    fn all_in(&self, plural: &str, namespace: &str) -> Vec<Value> {
        if !namespace.is_empty() {
            return self.all(plural, namespace);
        }
        let Some(kind) = self.kinds.iter().find(|kind| kind.names.plural == plural) else {
            return Vec::new();
        };
        let target = Target { kind: kind.clone(), namespace: None, name: None, is_status: false };
        let page = self.store.list(&target.key(), None, None, usize::MAX);
        let entries = page.map(|page| page.entries).unwrap_or_default();
        entries.iter().filter_map(|(_, entry)| crate::form::object(entry).ok()).collect()
    }

    /// Takes an object out of the store; with a namespace what nobody deletes: events and leases.
    pub(crate) fn remove(&self, target: &Target, revision: u64) -> Result<(), ApiError> {
        if target.kind.names.plural == "namespaces" {
            let namespace = target.name.clone();
            for kind in self.kinds.iter().filter(|kind| kind.scope == Scope::Namespaced) {
                let inside =
                    Target { kind: kind.clone(), namespace: namespace.clone(), name: None, is_status: false };
                for (key, entry) in self.store.list(&inside.key(), None, None, usize::MAX)?.entries {
                    self.store.delete(&key, entry.revision)?;
                }
            }
        }
        self.store.delete(&target.key(), revision)?;
        Ok(())
    }
}
