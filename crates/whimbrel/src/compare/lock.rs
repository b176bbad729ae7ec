use std::{
    env,
    fs::{File, OpenOptions},
    io,
    path::PathBuf,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

/// Held while a comparison runs: two at once would measure each other.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum LockError {
    /// Somebody has it.
    #[error("Another comparison runs on this host, and each would measure the other: wait until it has ended ({} is locked)", path.display())]
    Taken { path: PathBuf },
    /// It cannot be made.
    #[error("Cannot lock {}, which keeps two comparisons from measuring each other", path.display())]
    Failed { path: PathBuf, source: io::Error },
}

impl Lock {
    pub(super) fn take() -> Result<Self, LockError> {
        let path = env::temp_dir().join("whimbrel-compare.lock");
        // It stays: who removes it would let in others beside somebody who waits for it.
        // Another user may have made it: a lock needs no right to write.
        let opened = File::open(&path).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)
            }
            _ => Err(error),
        });
        let file = match opened {
            Ok(file) => file,
            Err(source) => return Err(LockError::Failed { path, source }),
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(Errno::WOULDBLOCK) => Err(LockError::Taken { path }),
            Err(error) => Err(LockError::Failed { path, source: error.into() }),
        }
    }
}
