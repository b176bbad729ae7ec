//! Lines of the latest changes, made once for all who watch: hundreds may, and all are told the same.

use std::collections::VecDeque;

use hyper::body::Bytes;
use parking_lot::Mutex;
use store::Change;

use crate::{ApiError, form::text};

/// Lines that are kept, and the longest of them in bytes: 2 MiB in all.
const KEPT: usize = 32;
const LONGEST: usize = 64 << 10;

/// Lines by the revisions of their changes.
#[derive(Debug, Default)]
pub(crate) struct Lines(Mutex<VecDeque<(u64, Bytes)>>);

impl Lines {
    /// The line that tells of a change to whoever sees all objects as they are.
    pub(crate) fn of(&self, change: &Change) -> Result<Bytes, ApiError> {
        // The latest are asked for most.
        if let Some((_, line)) = self.0.lock().iter().rev().find(|(revision, _)| *revision == change.revision)
        {
            return Ok(line.clone());
        }
        let line = Bytes::from(make(change)?);
        if line.len() <= LONGEST {
            let mut kept = self.0.lock();
            kept.push_back((change.revision, line.clone()));
            if kept.len() > KEPT {
                kept.pop_front();
            }
        }
        Ok(line)
    }
}

fn make(change: &Change) -> Result<Vec<u8>, ApiError> {
    let (name, entry) = match (&change.previous, &change.entry) {
        (None, Some(now)) => ("ADDED", now),
        (Some(_), Some(now)) => ("MODIFIED", now),
        (Some(before), None) => ("DELETED", before),
        (None, None) => return Ok(Vec::new()),
    };
    let begin = format!("{{\"type\":\"{name}\",\"object\":");
    Ok([begin.as_bytes(), &text(entry, change.revision)?, b"}\n"].concat())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use store::Entry;

    use super::*;

    fn change(revision: u64, bytes: usize) -> Change {
        let value = format!("{{\"metadata\":{{\"name\":\"{}\"}}}}", "a".repeat(bytes)).into_bytes();
        let entry = Some(Entry { revision, value: Arc::from(value) });
        Change { revision, key: "k".into(), entry, previous: None }
    }

    #[test]
    fn each_change_has_its_own_line_however_many_there_were() {
        let lines = Lines::default();
        for revision in (1..100).chain([1, 99, 50]) {
            let line = lines.of(&change(revision, 1)).unwrap();
            let version = format!("\"resourceVersion\":\"{revision}\"");
            assert!(String::from_utf8_lossy(&line).contains(&version), "{line:?}");
        }
        assert_eq!(lines.of(&change(99, 1)).unwrap().as_ptr(), lines.of(&change(99, 1)).unwrap().as_ptr());
    }

    #[test]
    fn what_is_long_is_not_kept() {
        let lines = Lines::default();
        assert!(lines.of(&change(1, LONGEST)).unwrap().len() > LONGEST);
        assert!(lines.0.lock().is_empty());
    }
}
