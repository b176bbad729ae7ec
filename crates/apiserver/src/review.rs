//! Questions: objects that are created, answered in their status, and not stored, as Kubernetes' reviews of access are.

use std::sync::Arc;

use objects::Scope;
use serde_json::Value;

use crate::{
    Api, ApiError, Reply, Reviewer, api::Request, form, identity::Verb, metadata, route::Target, schema,
    write::parse,
};

impl Api {
    /// This API, whose questions are answered by that reviewer.
    #[must_use]
    pub fn with_reviewer(self, reviewer: Arc<dyn Reviewer>) -> Self {
        Self { reviewer: Some(reviewer), ..self }
    }

    pub(crate) fn review(&self, request: &Request, target: &Target, verb: Verb) -> Result<Reply, ApiError> {
        let kind = &target.kind;
        let Some(reviewer) = self.reviewer.as_ref().filter(|_| verb == Verb::Create) else {
            return Err(ApiError::method_not_allowed(&request.method));
        };
        if kind.scope == Scope::Namespaced && target.namespace.is_none() {
            return Err(ApiError::method_not_allowed("asking without a namespace"));
        }
        let mut question = parse(request)?;
        metadata::identify(&mut question, target)?;
        let verdict = schema::apply(&mut question, &kind.schema);
        if !verdict.errors.is_empty() {
            return Err(ApiError::invalid(kind, "", &verdict.errors));
        }
        let all = |plural: &str| self.everywhere(plural);
        let answer = reviewer.review(&kind.names.kind, &question, &all);
        question["status"] = answer.map_err(ApiError::bad_request)?;
        let warnings = verdict.unknown.iter().map(|path| format!("unknown field {path:?}")).collect();
        Ok(Reply { warnings, ..Reply::value(201, question) })
    }

    /// The objects of a kind in all namespaces.
    fn everywhere(&self, plural: &str) -> Vec<Value> {
        let Some(kind) = self.kinds.iter().find(|kind| kind.names.plural == plural) else {
            return Vec::new();
        };
        let target = Target { kind: kind.clone(), namespace: None, name: None, is_status: false };
        let entries = self.store.list(&target.key(), None, None, usize::MAX).map(|page| page.entries);
        entries.unwrap_or_default().iter().filter_map(|(_, entry)| form::object(entry).ok()).collect()
    }
}
