//! Objects by key, with one revision for every change, a history to watch, and a file that survives.
//!
//! What an object is, is not known here: keys are text, values are bytes. The shape is etcd's, so that a fleet can outgrow this store
//! without a change above it.
//!
//! * Every change has the next *revision*. [`Store::put`] and [`Store::delete`] say which revision they have seen
//!   ([`Expect`]); if another came between, nothing changes and that is said.
//! * A change is on disk before anybody can see it: it is committed and synced first, then shown to readers and watchers.
//! * The latest changes are kept in memory as *history*, bounded in number and bytes. [`Store::changes`] goes on after any
//!   revision that is in it, [`Store::list`] reads as of any such revision, both say [`StoreError::Compacted`] before that. A start
//!   begins with an empty history: whoever watched lists again.
//! * A watcher has no queue: it is a position in the history. One that is too slow is told so, and costs no memory.

mod error;
mod file;
mod history;

use std::{collections::BTreeMap, ops::Bound, path::Path, sync::Arc};

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

pub use error::StoreError;
pub use history::{AbortAfter, Change, Limits};

use file::File;
use history::History;

/// The longest key, in bytes.
pub const MAX_KEY: usize = 1024;
/// The largest value, in bytes.
pub const MAX_VALUE: usize = 2 << 20;

/// A value, and the revision of the change that put it there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When it was put there.
    pub revision: u64,
    /// The value.
    pub value: Arc<[u8]>,
}

/// What a change has seen of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing: it must not be there.
    Absent,
    /// It as of this revision.
    Revision(u64),
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Keys and values, in the order of the keys.
    pub entries: Vec<(String, Entry)>,
    /// As of which revision.
    pub revision: u64,
    /// How many come after these.
    pub remaining: usize,
}

/// Objects by key. Threads share it.
#[derive(Debug)]
pub struct Store {
    /// Held while a change is made, so that revisions come in order.
    file: Mutex<File>,
    shown: RwLock<Shown>,
    latest: watch::Sender<u64>,
    abort_after: Option<AbortAfter>,
}

/// What readers see.
#[derive(Debug)]
struct Shown {
    entries: BTreeMap<String, Entry>,
    history: History,
}

impl Store {
    /// Opens the file, or makes it if it is missing.
    ///
    /// # Errors
    /// The file is in use, is damaged, was made by a later version, or cannot be read or written.
    pub fn open(path: &Path, limits: Limits) -> Result<Self, StoreError> {
        let (file, entries, revision) = File::open(path)?;
        let shown = Shown { entries, history: History::new(revision, limits) };
        Ok(Self {
            file: Mutex::new(file),
            shown: RwLock::new(shown),
            latest: watch::Sender::new(revision),
            abort_after: None,
        })
    }

    /// This store, in a process that shall abort after some changes.
    #[must_use]
    pub fn aborting(self, after: Option<AbortAfter>) -> Self {
        Self { abort_after: after, ..self }
    }

    /// The revision of the latest change.
    pub fn revision(&self) -> u64 {
        self.shown.read().history.revision()
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<Entry> {
        self.shown.read().entries.get(key).cloned()
    }

    /// Up to `limit` entries whose key begins with `prefix`, those after the key `after`, as of the revision `at` or now.
    ///
    /// # Errors
    /// `at` is older than the history, or has not been yet.
    pub fn list(
        &self,
        prefix: &str,
        at: Option<u64>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let shown = self.shown.read();
        let revision = at.unwrap_or_else(|| shown.history.revision());
        let undone = shown.history.undone(prefix, revision)?;
        let first = after.filter(|after| *after >= prefix);
        let begin = first.map_or(Bound::Included(prefix), Bound::Excluded);
        let now = shown.entries.range::<str, _>((begin, Bound::Unbounded));
        let now = now
            .take_while(|(key, _)| key.starts_with(prefix))
            .filter(|(key, _)| !undone.contains_key(key.as_str()));
        let mut entries: Vec<_> = now.map(|(key, entry)| (key.as_str(), entry)).collect();
        if !undone.is_empty() {
            let then = undone.iter().filter_map(|(key, entry)| Some((*key, (*entry)?)));
            entries.extend(then.filter(|(key, _)| first.is_none_or(|after| *key > after)));
            entries.sort_by_key(|(key, _)| *key);
        }
        let remaining = entries.len().saturating_sub(limit);
        let entries = entries.into_iter().take(limit).map(|(key, entry)| (key.to_owned(), entry.clone()));
        Ok(Page { entries: entries.collect(), revision, remaining })
    }

    /// Puts a value, and returns the revision that it has now.
    ///
    /// # Errors
    /// The key has changed since `expect`, key or value are too long, or the file takes no more: nothing has changed then.
    pub fn put(&self, key: &str, expect: Expect, value: &[u8]) -> Result<u64, StoreError> {
        if key.len() > MAX_KEY || value.len() > MAX_VALUE {
            return Err(StoreError::TooLong {
                key: key.chars().take(80).collect(),
                bytes: key.len().max(value.len()),
            });
        }
        self.change(key, expect, Some(value.into()))
    }

    /// Deletes a key, and returns the revision of that.
    ///
    /// # Errors
    /// As [`Self::put`]; what is not there cannot be deleted.
    pub fn delete(&self, key: &str, seen: u64) -> Result<u64, StoreError> {
        self.change(key, Expect::Revision(seen), None)
    }

    fn change(&self, key: &str, expect: Expect, value: Option<Arc<[u8]>>) -> Result<u64, StoreError> {
        let mut file = self.file.lock();
        let (revision, previous) = {
            let shown = self.shown.read();
            (shown.history.revision() + 1, shown.entries.get(key).cloned())
        };
        let found = previous.as_ref().map(|entry| entry.revision);
        let expected = match expect {
            Expect::Absent => None,
            Expect::Revision(revision) => Some(revision),
        };
        if found != expected {
            return Err(StoreError::Conflict { key: key.to_owned(), found });
        }
        file.commit(revision, key, value.as_deref(), previous.clone())?;
        if let Some(after) = self.abort_after.filter(|after| key.starts_with(after.prefix)) {
            file.count += 1;
            if file.count >= after.changes {
                std::process::abort();
            }
        }
        let entry = value.map(|value| Entry { revision, value });
        let mut shown = self.shown.write();
        match &entry {
            Some(entry) => shown.entries.insert(key.to_owned(), entry.clone()),
            None => shown.entries.remove(key),
        };
        shown.history.push(Change { revision, key: key.into(), entry, previous });
        drop(shown);
        self.latest.send_replace(revision);
        Ok(revision)
    }

    /// Up to `limit` changes after a revision of keys that begin with `prefix`, oldest first, and the revision up to which that
    /// is all: where the next call goes on.
    ///
    /// # Errors
    /// `after` is older than the history, or has not been yet.
    pub fn changes(&self, prefix: &str, after: u64, limit: usize) -> Result<(Vec<Change>, u64), StoreError> {
        self.shown.read().history.after(prefix, after, limit)
    }

    /// Tells of every new revision, for whoever waits.
    pub fn latest(&self) -> watch::Receiver<u64> {
        self.latest.subscribe()
    }
}
