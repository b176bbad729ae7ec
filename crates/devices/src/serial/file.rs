use std::{fs::File, io::Write, path::Path};

use super::{Backend, BackendError};
use crate::Watch;

/// A file that collects the output. There is no input.
#[derive(Debug)]
pub struct OutputFile {
    file: File,
    failed: bool,
}

impl OutputFile {
    /// Opens `path` for appending; makes it if it is not there.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(path: &Path) -> Result<Self, BackendError> {
        let file = File::options().append(true).create(true).open(path);
        let file = file.map_err(|source| BackendError::File { path: path.into(), source })?;
        Ok(Self { file, failed: false })
    }
}

impl Backend for OutputFile {
    fn watches(&self) -> Vec<Watch> {
        Vec::new()
    }

    fn ready(&mut self, _token: u32) {}

    fn write(&mut self, bytes: &[u8]) {
        let result = self.file.write_all(bytes);
        if let (Err(error), false) = (&result, self.failed) {
            tracing::warn!(%error, "serial output is being lost");
        }
        self.failed = result.is_err();
    }

    fn read(&mut self, _room: &mut [u8]) -> usize {
        0
    }
}
