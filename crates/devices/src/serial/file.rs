use std::{
    fs::File,
    io::Write,
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::Path,
};

use rustix::fs::OFlags;

use super::{Backend, BackendError};
use crate::Watch;

/// A file that collects the output. There is no input.
#[derive(Debug)]
pub struct OutputFile {
    file: File,
    failed: bool,
}

impl OutputFile {
    /// Opens `path` for appending; makes it if it is not there. Of a pipe or a terminal neither the opening nor the output waits for the
    /// other end: what that does not take is lost.
    ///
    /// # Errors
    /// The file cannot be opened, or is a pipe that nobody reads.
    pub fn open(path: &Path) -> Result<Self, BackendError> {
        let failed = |source| BackendError::File { path: path.into(), source };
        let never_waits = (OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
        let file = File::options().append(true).create(true).custom_flags(never_waits).open(path);
        let file = file.map_err(|source| match source.raw_os_error() {
            Some(libc::ENXIO) if is_pipe(path) => BackendError::Unread { path: path.into() },
            _ => failed(source),
        })?;
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

fn is_pipe(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|it| it.file_type().is_fifo())
}
