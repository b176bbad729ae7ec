use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::ErrorKind,
    os::unix::fs::OpenOptionsExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use redb::{Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, TableError};

use crate::{Entry, StoreError};

/// Key to revision (8 bytes, little-endian) and value.
const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");
const REVISION: &str = "revision";
const FORMAT: &str = "format";
/// The format of this file. Goes up with every change that an earlier program would misread.
const KNOWN_FORMAT: u64 = 1;
/// Memory for pages of the file. What is read all the time is in the store's own memory.
const CACHE: usize = 4 << 20;

/// The file, in which everything but history is.
#[derive(Debug)]
pub(crate) struct File {
    path: PathBuf,
    /// None after a change that could not be written: the database takes no more then, and is opened anew.
    database: Option<Database>,
    /// The change that could not be written. It may be in the file all the same.
    doubtful: Option<Doubtful>,
    /// Changes that count for [`crate::AbortAfter`].
    pub(crate) count: u64,
}

#[derive(Debug)]
struct Doubtful {
    revision: u64,
    key: String,
    before: Option<Entry>,
}

type Opened = (File, BTreeMap<String, Entry>, u64);
type Cause = Box<dyn std::error::Error + Send + Sync>;

impl File {
    /// Opens or makes it, and reads it all.
    pub(crate) fn open(path: &Path) -> Result<Opened, StoreError> {
        let damaged = |source: Cause| StoreError::Damaged { path: path.to_owned(), source };
        // The database asserts what it reads. A file that makes it do so is a damaged one.
        let outcome = catch_unwind(AssertUnwindSafe(|| Self::open_unguarded(path)));
        outcome.unwrap_or_else(|_| Err(damaged("it contradicts itself".into())))
    }

    fn open_unguarded(path: &Path) -> Result<Opened, StoreError> {
        let failed = |source: Cause| StoreError::Open { path: path.to_owned(), source };
        let damaged = |source: Cause| StoreError::Damaged { path: path.to_owned(), source };
        // It has secrets: nobody else reads it. An empty file would be taken for a new one, but it is one that was cut.
        let made = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
        match &made {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let length = path.metadata().map_err(|error| failed(error.into()))?.len();
                if length == 0 {
                    return Err(damaged("it is empty".into()));
                }
            }
            _ => {
                made.map_err(|error| failed(error.into()))?;
            }
        }
        let database = database(path).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => failed(error.into()),
            DatabaseError::Storage(redb::StorageError::Io(source))
                if matches!(source.kind(), ErrorKind::PermissionDenied | ErrorKind::NotFound) =>
            {
                failed(source.into())
            }
            error => damaged(error.into()),
        })?;
        let file = Self { path: path.to_owned(), database: Some(database), doubtful: None, count: 0 };
        let found = file.number(FORMAT).map_err(damaged)?.unwrap_or(KNOWN_FORMAT);
        if found > KNOWN_FORMAT {
            return Err(StoreError::Format { path: path.to_owned(), found, known: KNOWN_FORMAT });
        }
        let entries = file.entries().map_err(damaged)?;
        let revision = file.number(REVISION).map_err(damaged)?.unwrap_or(0);
        if let Some((key, entry)) = entries.iter().find(|(_, entry)| entry.revision > revision) {
            return Err(damaged(format!("{key} has revision {}, after {revision}", entry.revision).into()));
        }
        Ok((file, entries, revision))
    }

    /// Writes a change of what was there `before`. It is on disk when this returns; after an error nothing has changed, and the next change may
    /// be possible.
    pub(crate) fn commit(
        &mut self,
        revision: u64,
        key: &str,
        value: Option<&[u8]>,
        before: Option<Entry>,
    ) -> Result<(), StoreError> {
        self.settle().map_err(StoreError::Write)?;
        let entry = value.map(|value| (revision, value));
        self.write(revision, key, entry).map_err(|error| {
            self.database = None;
            self.doubtful = Some(Doubtful { revision, key: key.to_owned(), before });
            StoreError::Write(error)
        })
    }

    /// Opens the file anew where a change could not be written, and takes that change back if it is there all the same.
    fn settle(&mut self) -> Result<(), Cause> {
        if self.database.is_none() {
            // It asserts what it reads.
            let opened = catch_unwind(AssertUnwindSafe(|| database(&self.path)));
            self.database = Some(opened.map_err(|_| "it contradicts itself")??);
        }
        let Some(doubtful) = &self.doubtful else { return Ok(()) };
        if self.number(REVISION)? == Some(doubtful.revision) {
            let before = doubtful.before.as_ref().map(|entry| (entry.revision, &*entry.value));
            let taken_back = self.write(doubtful.revision - 1, &doubtful.key, before);
            taken_back.inspect_err(|_| self.database = None)?;
        }
        self.doubtful = None;
        Ok(())
    }

    fn opened(&self) -> Result<&Database, Cause> {
        self.database.as_ref().ok_or_else(|| "it is closed".into())
    }

    /// Writes what a key has, with its revision, and which revision is the latest.
    fn write(&self, latest: u64, key: &str, entry: Option<(u64, &[u8])>) -> Result<(), Cause> {
        let transaction = self.opened()?.begin_write()?;
        {
            let mut objects = transaction.open_table(OBJECTS)?;
            match entry {
                Some((revision, value)) => {
                    let bytes = [&revision.to_le_bytes(), value].concat();
                    objects.insert(key, bytes.as_slice())?;
                }
                None => {
                    objects.remove(key)?;
                }
            }
            let mut numbers = transaction.open_table(NUMBERS)?;
            numbers.insert(REVISION, latest)?;
            numbers.insert(FORMAT, KNOWN_FORMAT)?;
        }
        transaction.commit()?;
        Ok(())
    }

    fn number(&self, name: &str) -> Result<Option<u64>, Cause> {
        match self.opened()?.begin_read()?.open_table(NUMBERS) {
            Ok(table) => Ok(table.get(name)?.map(|number| number.value())),
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn entries(&self) -> Result<BTreeMap<String, Entry>, Cause> {
        let table = match self.opened()?.begin_read()?.open_table(OBJECTS) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return Ok(BTreeMap::new()),
            Err(error) => return Err(error.into()),
        };
        let mut entries = BTreeMap::new();
        for row in table.iter()? {
            let (key, bytes) = row?;
            let (revision, value) = bytes.value().split_first_chunk().ok_or("a value has no revision")?;
            let entry = Entry { revision: u64::from_le_bytes(*revision), value: Arc::from(value) };
            entries.insert(key.value().to_owned(), entry);
        }
        Ok(entries)
    }
}

fn database(path: &Path) -> Result<Database, DatabaseError> {
    Builder::new().set_cache_size(CACHE).create(path)
}
