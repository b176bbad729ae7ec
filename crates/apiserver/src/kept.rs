//! What nodes have of objects: subresources that their agents serve, as a kubelet serves logs of Pods.

use std::sync::Arc;

use serde_json::Value;

use crate::{
    Agents, Api, ApiError, Call, Errand, Identity, Reply,
    api::{Body, Request},
    identity::CONSOLE,
    route::{Query, Target},
};

/// What a machine uses.
const METRICS: &str = "metrics";

impl Api {
    /// This API, which has agents serve what belongs to objects.
    #[must_use]
    pub fn with_agents(self, agents: Arc<dyn Agents>) -> Self {
        Self { agents: Some(agents), ..self }
    }

    pub(crate) fn kept(
        &self,
        request: &Request,
        identity: &Identity,
        target: &Target,
        subresource: &str,
    ) -> Result<Reply, ApiError> {
        if request.method != "GET" {
            return Err(ApiError::method_not_allowed(&request.method));
        }
        let is_console = subresource == CONSOLE;
        identity.check_kept(target, subresource)?;
        let agents = self.agents.as_ref().ok_or_else(ApiError::no_page)?;
        let (_, object) = self.find(target)?;
        let errand = agents.errand(&target.kind.names.kind, subresource, &object);
        let mut errand = errand.map_err(|why| ApiError::new(404, "NotFound", why))?;
        // What costs the guest's host something is not done by the way.
        if subresource == METRICS && Query::parse(&request.query)?.is_true("dirty") {
            errand.path.push_str("?dirty=true");
        }
        let mut call = self.call(&**agents, errand)?;
        if is_console {
            let headers = request.web_socket.clone();
            call.web_socket = Some(headers.ok_or_else(|| {
                ApiError::bad_request("a console is a WebSocket (RFC 6455, version 13), over HTTP/1.1")
            })?);
            // The agent closes it with a sentence then, and the tunnel whatever the agent does.
            call.lasts = self.time_left(request);
            call.errand.path.push_str(&format!("?seconds={}", call.lasts.as_secs()));
            // The audit: whoever types there does as much as who writes.
            let (name, namespace) = (target.name.as_deref(), target.namespace.as_deref());
            tracing::info!(user = identity.name, namespace, name, "console");
        }
        Ok(Reply { code: 200, warnings: Vec::new(), body: Body::Call(call) })
    }

    /// `/api/v1/nodes/NAME/proxy/metrics`: the figures of a node's agent.
    pub(crate) fn node_metrics(
        &self,
        request: &Request,
        identity: &Identity,
        target: &Target,
    ) -> Result<Reply, ApiError> {
        if request.method != "GET" {
            return Err(ApiError::method_not_allowed(&request.method));
        }
        identity.check_kept(target, "proxy")?;
        let agents = self.agents.as_ref().ok_or_else(ApiError::no_page)?;
        self.find(target)?;
        let node = target.name.clone().unwrap_or_default();
        let call = self.call(&**agents, Errand { node, path: "/metrics".to_owned() })?;
        Ok(Reply { code: 200, warnings: Vec::new(), body: Body::Call(call) })
    }

    fn call(&self, agents: &dyn Agents, errand: Errand) -> Result<Call, ApiError> {
        let node = self.store.get(&format!("/nodes/{}", errand.node));
        let node = node.and_then(|entry| serde_json::from_slice::<Value>(&entry.value).ok());
        Call::new(errand, node.as_ref(), agents)
    }
}
