use std::fmt::Debug;

use serde_json::Value;

/// A file that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its media type: plain text or JSON, which no browser runs.
    pub media_type: &'static str,
    /// What is in it, or its end where it is long.
    pub bytes: Vec<u8>,
}

/// Whoever can read what nodes keep.
pub trait Archive: Debug + Send + Sync {
    /// The file of that name of an object of a kind.
    ///
    /// # Errors
    /// There is no such file here: a sentence for whoever asks.
    fn read(&self, kind: &str, file: &str, object: &Value) -> Result<Kept, String>;
}
