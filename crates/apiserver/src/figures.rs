//! `/metrics`: figures for Prometheus. Who reads objects reads these too.

use std::{fmt::Debug, sync::Arc};

use crate::{Api, ApiError, Identity, Kept, Reply, Role, api::Request};

/// Whoever knows the figures.
pub trait Figures: Debug + Send + Sync {
    /// The figures as text, in the format that a header `Accept` asks for, and its media type.
    fn text(&self, accept: &str) -> (&'static str, String);
}

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
        Ok(Reply::kept(Kept { media_type, bytes: text.into_bytes() }))
    }
}
