use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use crate::{Entry, StoreError};

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its revision.
    pub revision: u64,
    /// The key.
    pub key: Arc<str>,
    /// What is there now; `None` where it was deleted.
    pub entry: Option<Entry>,
    /// What was there before; `None` where it is new.
    pub previous: Option<Entry>,
}

/// How much history is kept. The latest change is kept in any case.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Changes.
    pub changes: usize,
    /// Bytes of keys and values in them.
    pub bytes: usize,
}

/// For tests: the process aborts right after so many changes of keys that begin so, as if it had been killed there.
#[derive(Clone, Copy, Debug)]
pub struct AbortAfter {
    /// What keys that count begin with.
    pub prefix: &'static str,
    /// How many changes are made, 1 or more.
    pub changes: u64,
}

impl Default for Limits {
    /// 10,000 changes in 32 MiB: a minute and a half of a fleet in which 100 machines move at a time.
    fn default() -> Self {
        Self { changes: 10_000, bytes: 32 << 20 }
    }
}

/// The latest changes. Their revisions follow each other without a gap.
#[derive(Debug)]
pub(crate) struct History {
    changes: VecDeque<Change>,
    bytes: usize,
    /// The revision after which all changes are known.
    oldest: u64,
    limits: Limits,
}

impl History {
    pub(crate) fn new(revision: u64, limits: Limits) -> Self {
        Self { changes: VecDeque::new(), bytes: 0, oldest: revision, limits }
    }

    pub(crate) fn revision(&self) -> u64 {
        self.oldest + self.changes.len() as u64
    }

    pub(crate) fn push(&mut self, change: Change) {
        self.bytes += size(&change);
        self.changes.push_back(change);
        while self.changes.len() > 1
            && (self.changes.len() > self.limits.changes || self.bytes > self.limits.bytes)
            && let Some(gone) = self.changes.pop_front()
        {
            self.bytes -= size(&gone);
            self.oldest = gone.revision;
        }
    }

    /// As [`crate::Store::changes`].
    pub(crate) fn after(
        &self,
        prefix: &str,
        after: u64,
        limit: usize,
    ) -> Result<(Vec<Change>, u64), StoreError> {
        let mut found = Vec::new();
        for change in self.changes.iter().skip(self.position(after)?) {
            if found.len() == limit {
                return Ok((found, change.revision - 1));
            }
            if change.key.starts_with(prefix) {
                found.push(change.clone());
            }
        }
        Ok((found, self.revision()))
    }

    /// What was, as of a revision, under the keys that have changed since: `None` where nothing was.
    pub(crate) fn undone(
        &self,
        prefix: &str,
        revision: u64,
    ) -> Result<BTreeMap<&str, Option<&Entry>>, StoreError> {
        let mut undone = BTreeMap::new();
        for change in self.changes.iter().skip(self.position(revision)?) {
            if change.key.starts_with(prefix) {
                // The first change since then knows what was before it.
                undone.entry(&*change.key).or_insert(change.previous.as_ref());
            }
        }
        Ok(undone)
    }

    /// How many changes are known up to a revision.
    fn position(&self, revision: u64) -> Result<usize, StoreError> {
        let latest = self.revision();
        if revision > latest {
            return Err(StoreError::Future { asked: revision, latest });
        }
        let known = revision.checked_sub(self.oldest);
        let known = known.ok_or(StoreError::Compacted { asked: revision, oldest: self.oldest })?;
        Ok(usize::try_from(known).unwrap_or(usize::MAX))
    }
}

fn size(change: &Change) -> usize {
    let bytes = |entry: &Option<Entry>| entry.as_ref().map_or(0, |entry| entry.value.len());
    change.key.len() + bytes(&change.entry) + bytes(&change.previous)
}
