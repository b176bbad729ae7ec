use crate::{Report, SCHEMA};

/// Longest report that is read, in bytes. A long one, with every round that is kept, has about 300 kB.
pub const MAX_BYTES: usize = 16 << 20;

/// Most members of a list. A source keeps 256 rounds, a destination has at most 64 channels; whatever is longer was not written
/// by Whimbrel, and would be drawn for ever.
const MAX_ITEMS: usize = 10_000;

/// Why bytes are no report.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// More than any report has.
    #[error("This is no report of a migration: it is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// It is not JSON, is cut off, or does not fit the schema.
    #[error("This is no report of a migration, or it is damaged")]
    Json(#[from] serde_json::Error),
    /// It was written by a newer release.
    #[error(
        "The report has schema version {found}, this program knows {SCHEMA}: use the release that wrote it"
    )]
    Schema {
        /// The version that it says.
        found: u32,
    },
    /// A list is longer than any migration makes it.
    #[error("This is no report of a migration: the list '{list}' has {items} items")]
    TooMany {
        /// Which list.
        list: &'static str,
        /// How long it is.
        items: usize,
    },
}

impl Report {
    /// Reads a report that anybody may have written.
    ///
    /// # Errors
    /// It is none, or none that this release knows.
    pub fn read(json: &[u8]) -> Result<Self, ReadError> {
        if json.len() > MAX_BYTES {
            return Err(ReadError::TooLong);
        }
        let report: Self = serde_json::from_slice(json)?;
        if report.schema != SCHEMA {
            return Err(ReadError::Schema { found: report.schema });
        }
        for (list, items) in report.lists() {
            if items > MAX_ITEMS {
                return Err(ReadError::TooMany { list, items });
            }
        }
        Ok(report)
    }

    fn lists(&self) -> [(&'static str, usize); 5] {
        [
            ("rounds", self.rounds.len()),
            ("decisions", self.decisions.len()),
            ("phases", self.downtime.as_ref().map_or(0, |downtime| downtime.phases.len())),
            ("differences", self.integrity.as_ref().map_or(0, |integrity| integrity.differences.len())),
            ("channels", self.arrived.as_ref().map_or(0, |arrived| arrived.channels.len())),
        ]
    }
}
