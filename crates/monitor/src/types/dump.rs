use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What `dump-guest-memory` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DumpRequest {
    /// The file to make. There must be none of that name.
    pub path: PathBuf,
    /// Whether the command returns at once, and not when the file is written.
    pub detach: bool,
}

/// How far a dump is: QEMU's `DumpStatus`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DumpStatus {
    /// There was none.
    #[default]
    None,
    /// It is being written.
    Active,
    /// The file is there.
    Completed,
    /// There is no file.
    Failed,
}

/// The dump under way, or the last one: QEMU's `DumpQueryResult`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DumpInfo {
    /// How far it is.
    pub status: DumpStatus,
    /// Bytes of memory that are written.
    pub completed: u64,
    /// Bytes of memory to be written.
    pub total: u64,
}

impl DumpStatus {
    /// A word for it, as in the JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Active => "active",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }
}
