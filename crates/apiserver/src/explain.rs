//! Resources of Kubernetes that clients expect and that are not here: who asks for one is told what to use.

use crate::{Absent, Api, ApiError};

impl Api {
    /// This API, which has a sentence for whoever asks for one of those.
    #[must_use]
    pub fn with_absent(self, absent: &'static [Absent]) -> Self {
        Self { absent, ..self }
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
