use std::path::PathBuf;

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another change came first, or the key is there, or is not.
    #[error("{key} has changed meanwhile")]
    Conflict {
        /// The key.
        key: String,
        /// Its revision now; `None` where it is not there.
        found: Option<u64>,
    },
    /// What came after this revision is not known any more.
    #[error("Revision {asked} is too old: changes are known from {oldest} on. List again")]
    Compacted {
        /// The revision that was asked for.
        asked: u64,
        /// The oldest that can be asked for.
        oldest: u64,
    },
    /// That revision has not been.
    #[error("Revision {asked} has not been yet: the latest is {latest}")]
    Future {
        /// The revision that was asked for.
        asked: u64,
        /// The latest.
        latest: u64,
    },
    /// Key or value are too long.
    #[error("{key} has {bytes} bytes, which is too long to be stored")]
    TooLong {
        /// The beginning of the key.
        key: String,
        /// The length of what is too long.
        bytes: usize,
    },
    /// The file cannot be opened.
    #[error("Cannot open the store {}: is another control plane running, or is it another user's?", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file is no store, or not a whole one.
    #[error(
        "The store {} is damaged, and is left as it is: put back a copy of it, or move it away to begin with an empty one. Machines that run go on meanwhile",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A later version wrote it.
    #[error("The store {} has format {found}, and this program knows {known}: use a later one", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// The format that is known.
        known: u64,
    },
    /// A change could not be written. Nothing has changed.
    #[error("The store cannot be written: is the file system full?")]
    Write(#[source] Box<dyn std::error::Error + Send + Sync>),
}
