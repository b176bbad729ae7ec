//! `/metrics`: figures for Prometheus. Who reads objects reads these too.

use std::sync::Arc;

use crate::{
    Api, ApiError, Fetched, Figures, Identity, Reply, Role,
    api::{Body, Request},
};

impl Api {
    /// This API, which has those figures at `/metrics`.
    #[must_use]
    pub fn with_figures(self, figures: Arc<dyn Figures>) -> Self {
        Self { figures: Some(figures), ..self }
    }

    pub(crate) fn metrics(&self, request: &Request, identity: &Identity) -> Result<Reply, ApiError> {
        let Some(figures) = &self.figures else { return Err(ApiError::no_page()) };
        if request.method != "GET" {
            return Err(ApiError::method_not_allowed(&request.method));
        }
        if identity.role == Role::Join {
            return Err(ApiError::forbidden(&identity.name, "cannot get path \"/metrics\""));
        }
        let (media_type, text) = figures.text(&request.accept);
        let body = Body::Fetched(Fetched { media_type, bytes: text.into_bytes() });
        Ok(Reply { code: 200, warnings: Vec::new(), body })
    }
}
