//! How a host becomes a node: it shows the ticket of the fleet, and gets what it needs to be one.

use std::{net::IpAddr, sync::Arc};

use serde_json::{Value, json};

use crate::{Api, ApiError, Identity, Registrar, Reply, Role, api::Request};

impl Api {
    /// This API, which lets hosts join as that registrar does.
    #[must_use]
    pub fn with_registrar(self, registrar: Arc<dyn Registrar>) -> Self {
        Self { registrar: Some(registrar), ..self }
    }

    /// `POST /join`: by the ticket for a new node, by a node's own token to renew, or to hear which certificates were taken back.
    pub(crate) fn join(&self, request: &Request, identity: &Identity) -> Result<Reply, ApiError> {
        let Some(registrar) = &self.registrar else { return Err(ApiError::no_page()) };
        if request.method != "POST" {
            return Err(ApiError::method_not_allowed(&request.method));
        }
        let asked: Value = serde_json::from_slice(&request.body)
            .map_err(|error| ApiError::bad_request(format!("the body is not JSON: {error}")))?;
        let name = asked["name"].as_str().unwrap_or_default();
        if asked["revoked"] == true && matches!(identity.role, Role::Node(_)) {
            let revoked = registrar.revoked().map_err(|why| ApiError::new(500, "InternalError", why))?;
            return Ok(Reply::value(200, json!({ "revoked": revoked })));
        }
        let is_new = match &identity.role {
            Role::Join => true,
            Role::Node(own) if own == name => false,
            _ => return Err(ApiError::forbidden(&identity.name, "cannot join as a node")),
        };
        if !is_label(name) {
            return Err(ApiError::bad_request(
                "the name of a node has 1 to 63 lower-case letters, digits or '-', with a letter or digit at both ends",
            ));
        }
        let addresses = asked["addresses"].as_array().into_iter().flatten().take(16);
        // No names: they would be in the node's certificate, and may be another's.
        let addresses =
            addresses.map(|address| address.as_str()?.parse().ok().map(|ip: IpAddr| ip.to_string()));
        let addresses: Vec<_> = addresses
            .collect::<Option<_>>()
            .ok_or_else(|| ApiError::bad_request("the addresses of a node are IP addresses"))?;
        let outcome = registrar.register(name, &addresses, is_new);
        let (credentials, token) = outcome.map_err(|why| ApiError::new(409, "Conflict", why))?;
        let node = Identity { name: format!("node:{name}"), role: Role::Node(name.to_owned()) };
        self.tokens.write().add(&token, node);
        tracing::info!(user = identity.name, node = name, is_new, "join");
        Ok(Reply::value(200, json!({ "token": token, "files": credentials })))
    }
}

impl Api {
    /// A node is about to be deleted, and cannot come back with what it was given.
    pub(crate) fn forget_node(&self, name: &str) -> Result<(), ApiError> {
        let Some(registrar) = &self.registrar else { return Ok(()) };
        registrar.forget(name).map_err(|why| ApiError::new(500, "InternalError", why))?;
        self.tokens.write().remove(&Role::Node(name.to_owned()));
        tracing::info!(node = name, "removed");
        Ok(())
    }
}

fn is_label(name: &str) -> bool {
    let is_allowed = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(is_allowed)
        && !name.starts_with('-')
        && !name.ends_with('-')
}
