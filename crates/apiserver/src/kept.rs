//! What nodes keep of objects as files: subresources that are read, as logs of Pods are.

use std::sync::Arc;

use crate::{
    Api, ApiError, Archive, Identity, Reply,
    api::{Body, Request},
    identity::Verb,
    route::Target,
};

impl Api {
    /// This API, whose objects have the files that this archive reads.
    #[must_use]
    pub fn with_archive(self, archive: Arc<dyn Archive>) -> Self {
        Self { archive: Some(archive), ..self }
    }

    pub(crate) fn kept(
        &self,
        request: &Request,
        identity: &Identity,
        target: &Target,
        file: &str,
    ) -> Result<Reply, ApiError> {
        if request.method != "GET" {
            return Err(ApiError::method_not_allowed(&request.method));
        }
        identity.check(Verb::Get, target)?;
        let archive = self.archive.as_ref().ok_or_else(ApiError::no_page)?;
        let (_, object) = self.find(target)?;
        let kept = archive.read(&target.kind.names.kind, file, &object);
        let kept = kept.map_err(|why| ApiError::new(404, "NotFound", why))?;
        Ok(Reply { code: 200, warnings: Vec::new(), body: Body::Kept(kept) })
    }
}
