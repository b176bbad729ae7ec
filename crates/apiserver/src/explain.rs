//! Resources of Kubernetes that clients expect and that are not here: who asks for one is told what to use.

use serde_json::json;

use crate::{Absent, Api, ApiError, Reply, Role, api::Request, route::Query};

impl Api {
    /// This API, which has a sentence for whoever asks for one of those.
    #[must_use]
    pub fn with_absent(self, absent: &'static [Absent]) -> Self {
        Self { absent, ..self }
    }

    /// An empty list for `kubectl describe node`, which shows nothing of a node whose pods it may not list. `kubectl drain` lists them as well,
    /// and is refused, so that nobody takes a node for empty: it asks for those of all phases.
    pub(crate) fn no_pods(&self, request: &Request) -> Result<Option<Reply>, ApiError> {
        let is_absent = self.absent.iter().any(|(name, _)| *name == "pods");
        if !is_absent || request.method != "GET" || request.path != "/api/v1/pods" {
            return Ok(None);
        }
        let query = Query::parse(&request.query)?;
        // An informer asks for a list first and then watches: it would take the list for a watch that broke.
        if query.is_true("watch") || !query.get("fieldSelector").is_some_and(is_describe) {
            return Ok(None);
        }
        let identity = self.identify(request)?;
        if identity.role == Role::Join {
            return Err(ApiError::forbidden(&identity.name, "cannot list pods"));
        }
        let list = json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [] });
        Ok(Some(Reply::value(200, list)))
    }

    /// The refusal of a path that leads nowhere.
    pub(crate) fn explain(&self, path: &str, error: ApiError) -> ApiError {
        let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
        let (["api", "v1", "namespaces", _, plural, ..] | ["api", "v1", plural, ..]) = parts.as_slice()
        else {
            return error;
        };
        match self.absent.iter().find(|(name, _)| name == plural) {
            Some((_, sentence)) if error.code == 404 => ApiError::new(404, "NotFound", *sentence),
            _ => error,
        }
    }
}

/// Whether a selector is the one that `kubectl describe node` has, and no other tool's that would take the node for empty.
fn is_describe(selector: &str) -> bool {
    let mut parts: Vec<_> = selector.split(',').collect();
    parts.sort_unstable();
    matches!(*parts, [node, "status.phase!=Failed", "status.phase!=Succeeded"] if node.starts_with("spec.nodeName="))
}
