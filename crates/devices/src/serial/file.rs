use std::{
    fs::File,
    io::Write,
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::Path,
};

use rustix::fs::OFlags;

use super::{
    Backend, BackendError,
    writer::{Confine, Writer},
};
use crate::Watch;

/// A file that collects the output. There is no input.
#[derive(Debug)]
pub struct OutputFile(Kind);

#[derive(Debug)]
enum Kind {
    /// A file: its storage may hang, and a thread waits for that.
    File(Writer),
    /// A pipe, a terminal: it says at once what it does not take.
    Stream { file: File, failed: bool },
}

impl OutputFile {
    /// Opens `path` for appending; makes it if it is not there. Of a pipe or a terminal neither the opening nor the output waits for the
    /// other end: what that does not take is lost. A file is written by a thread, which `confine` confines; what its storage does not
    /// take is lost past a limit.
    ///
    /// # Errors
    /// The file cannot be opened, or is a pipe that nobody reads; or the thread cannot be started.
    pub fn open(path: &Path, confine: Confine) -> Result<Self, BackendError> {
        let failed = |source| BackendError::File { path: path.into(), source };
        let never_waits = (OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
        let file = File::options().append(true).create(true).custom_flags(never_waits).open(path);
        let file = file.map_err(|source| match source.raw_os_error() {
            Some(libc::ENXIO) if is_pipe(path) => BackendError::Unread { path: path.into() },
            _ => failed(source),
        })?;
        if !file.metadata().map_err(failed)?.is_file() {
            return Ok(Self(Kind::Stream { file, failed: false }));
        }
        Ok(Self(Kind::File(Writer::start(file, confine).map_err(BackendError::Thread)?)))
    }
}

impl Backend for OutputFile {
    fn watches(&self) -> Vec<Watch> {
        Vec::new()
    }

    fn ready(&mut self, _token: u32) {}

    fn write(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Kind::File(writer) => writer.write(bytes),
            Kind::Stream { file, failed } => {
                let result = file.write_all(bytes);
                if let (Err(error), false) = (&result, *failed) {
                    tracing::warn!("Serial output is being lost: {error}");
                }
                *failed = result.is_err();
            }
        }
    }

    fn read(&mut self, _room: &mut [u8]) -> usize {
        0
    }
}

fn is_pipe(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|it| it.file_type().is_fifo())
}
