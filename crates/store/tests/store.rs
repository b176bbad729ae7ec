//! What a store promises: order, no lost and no half change, and a history that ends where it says.

#![expect(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]

use std::{
    fs,
    process::{Command, Stdio},
    sync::Arc,
    thread,
};

use proptest::prelude::*;
use store::{Expect, Limits, Store, StoreError};

fn open(folder: &tempfile::TempDir) -> Store {
    Store::open(&folder.path().join("store.redb"), Limits::default()).unwrap()
}

#[test]
fn a_change_on_an_old_revision_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let first = store.put("a", Expect::Absent, b"1").unwrap();
    assert!(
        matches!(store.put("a", Expect::Absent, b"2"), Err(StoreError::Conflict { found, .. }) if found == Some(first))
    );
    let second = store.put("a", Expect::Revision(first), b"2").unwrap();
    assert!(matches!(store.delete("a", first), Err(StoreError::Conflict { .. })));
    assert!(matches!(store.delete("b", first), Err(StoreError::Conflict { found: None, .. })));
    assert_eq!(*store.get("a").unwrap().value, *b"2");
    assert_eq!((second, store.revision()), (first + 1, first + 1));
}

#[test]
fn of_many_writers_each_revision_has_one() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(open(&folder));
    store.put("n", Expect::Absent, b"0").unwrap();
    let add = |store: &Store| loop {
        let entry = store.get("n").unwrap();
        let number: u32 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
        match store.put("n", Expect::Revision(entry.revision), (number + 1).to_string().as_bytes()) {
            Ok(_) => return,
            Err(error) => assert!(matches!(error, StoreError::Conflict { .. }), "{error}"),
        }
    };
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..25).for_each(|_| add(&store)));
        }
    });
    assert_eq!(*store.get("n").unwrap().value, *b"100");
    assert_eq!(store.changes("n", 0, 1000).unwrap().0.len(), 101);
}

#[test]
fn a_store_opened_again_is_the_same_without_its_history() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let first = store.put("a", Expect::Absent, b"1").unwrap();
    store.put("b", Expect::Absent, b"2").unwrap();
    store.delete("a", first).unwrap();
    drop(store);
    let store = open(&folder);
    assert_eq!((store.revision(), store.get("a")), (3, None));
    assert_eq!(store.get("b").unwrap().revision, 2);
    assert!(matches!(store.changes("", 2, 10), Err(StoreError::Compacted { oldest: 3, .. })));
    assert_eq!(store.put("c", Expect::Absent, b"3").unwrap(), 4);
    assert_eq!(store.changes("", 3, 10).unwrap().0.len(), 1);
}

/// A file system of few MiB. None where this process may not mount one.
struct Small(tempfile::TempDir);

impl Small {
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=32M", "small"])
            .arg(folder.path())
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: a file system cannot be mounted");
            return None;
        }
        Some(Self(folder))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_store_whose_file_system_was_full_goes_on_when_there_is_space() {
    let Some(small) = Small::new() else { return };
    let store = open(&small.0);
    let first = store.put("kept", Expect::Absent, b"1").unwrap();
    let filler = small.0.path().join("filler");
    for turn in 0..3 {
        // As much as there is room for.
        fs::write(&filler, vec![1; 64 << 20]).unwrap_err();
        let (key, value) = (format!("large-{turn}"), vec![turn; 2 << 20]);
        for _ in 0..2 {
            let refused = store.put(&key, Expect::Absent, &value).unwrap_err();
            assert!(matches!(refused, StoreError::Write(_)), "{refused}");
        }
        // What is there can be read all the while.
        assert_eq!((store.get(&key), store.get("kept").unwrap().revision), (None, first));
        fs::remove_file(&filler).unwrap();
        store.put(&key, Expect::Absent, &value).unwrap();
    }
    drop(store);
    let store = open(&small.0);
    assert_eq!(store.revision(), first + 3);
    for turn in 0..3 {
        assert_eq!(*store.get(&format!("large-{turn}")).unwrap().value, vec![turn; 2 << 20]);
    }
}

#[test]
fn history_is_bounded_and_says_where_it_begins() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { changes: 4, bytes: 1 << 20 };
    let store = Store::open(&folder.path().join("s"), limits).unwrap();
    for index in 0..10 {
        store.put(&format!("k{index}"), Expect::Absent, b"x").unwrap();
    }
    assert!(matches!(store.changes("", 5, 10), Err(StoreError::Compacted { asked: 5, oldest: 6 })));
    assert_eq!(store.changes("", 6, 10).unwrap().0.len(), 4);
    assert!(matches!(store.changes("", 11, 10), Err(StoreError::Future { .. })));
    let limits = Limits { changes: 100, bytes: 100 };
    let store = Store::open(&folder.path().join("t"), limits).unwrap();
    for index in 0..10 {
        store.put(&format!("k{index}"), Expect::Absent, &[0; 60]).unwrap();
    }
    assert_eq!(store.changes("", 9, 10).unwrap().0.len(), 1, "the latest is kept, however large");
    assert!(matches!(store.changes("", 8, 10), Err(StoreError::Compacted { .. })));
}

#[test]
fn a_list_in_pieces_is_as_of_its_beginning() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    for key in ["a/1", "a/2", "a/3", "b/1"] {
        store.put(key, Expect::Absent, key.as_bytes()).unwrap();
    }
    let page = store.list("a/", None, None, 2).unwrap();
    assert_eq!((page.entries.len(), page.remaining, page.revision), (2, 1, 4));
    store.delete("a/3", 3).unwrap();
    store.put("a/4", Expect::Absent, b"new").unwrap();
    let rest = store.list("a/", Some(4), Some("a/2"), 2).unwrap();
    let keys: Vec<_> = rest.entries.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!((keys, rest.remaining), (vec!["a/3"], 0));
}

#[test]
fn whoever_waits_hears_of_a_change() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(open(&folder));
    let latest = store.latest();
    store.put("a", Expect::Absent, b"1").unwrap();
    assert!(latest.has_changed().unwrap());
    assert_eq!(*latest.borrow(), 1);
}

#[test]
fn a_file_that_was_cut_is_refused_with_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let store = open(&folder);
    for index in 0..200 {
        store.put(&format!("k{index}"), Expect::Absent, &[7; 3000]).unwrap();
    }
    drop(store);
    let whole = fs::read(&path).unwrap();
    for length in [0, 1, 100, 4096, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        let error = Store::open(&path, Limits::default()).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{length}: {error:?}");
        assert!(error.to_string().contains("is damaged"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), whole[..length], "left as it is");
    }
    fs::write(&path, b"this is no store at all, but a letter to my aunt").unwrap();
    assert!(matches!(Store::open(&path, Limits::default()), Err(StoreError::Damaged { .. })));
}

#[test]
fn what_is_too_long_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    assert!(matches!(
        store.put("a", Expect::Absent, &vec![0; store::MAX_VALUE + 1]),
        Err(StoreError::TooLong { .. })
    ));
    assert!(matches!(store.put(&"k".repeat(2000), Expect::Absent, b""), Err(StoreError::TooLong { .. })));
    assert_eq!(store.revision(), 0);
}

/// Runs as the victim of the next test when that starts this program again; otherwise it does nothing.
#[test]
fn a_victim_writes_until_it_is_killed() {
    let Some(path) = std::env::var_os("STORE_OF_VICTIM") else { return };
    let store = Store::open(path.as_ref(), Limits::default()).unwrap();
    for index in 0_u64.. {
        store.put(&format!("k{index}"), Expect::Absent, &index.to_le_bytes().repeat(100)).unwrap();
        // What was said to be done is noted outside.
        fs::write(std::path::Path::new(&path).with_extension("done"), index.to_string()).unwrap();
    }
}

#[test]
fn a_kill_between_any_two_writes_loses_nothing_that_was_done() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_victim_writes_until_it_is_killed"])
        .env("STORE_OF_VICTIM", &path)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let done = || fs::read_to_string(path.with_extension("done")).ok()?.parse::<u64>().ok();
    while done().is_none_or(|done| done < 20) {
        assert!(child.try_wait().unwrap().is_none(), "the victim died by itself");
        thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let done = done().unwrap_or(20);
    let store = Store::open(&path, Limits::default()).unwrap();
    for index in 0..=done {
        let entry = store.get(&format!("k{index}")).expect("what was done is there");
        assert_eq!(*entry.value, *index.to_le_bytes().repeat(100));
    }
    assert!(store.revision() > done);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// A list as of a revision is what a list was at that revision, and the changes since lead to what is now.
    #[test]
    fn history_undoes_and_repeats_what_happened(steps in prop::collection::vec((0..6u8, any::<bool>()), 1..30)) {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        let mut lists = vec![store.list("", None, None, 100).unwrap()];
        for (key, is_put) in steps {
            let key = format!("k{key}");
            let seen = store.get(&key).map(|entry| entry.revision);
            let outcome = match (is_put, seen) {
                (true, seen) => store.put(&key, seen.map_or(Expect::Absent, Expect::Revision), b"v"),
                (false, Some(seen)) => store.delete(&key, seen),
                (false, None) => continue,
            };
            outcome.unwrap();
            lists.push(store.list("", None, None, 100).unwrap());
        }
        let now = lists.last().unwrap();
        for list in &lists {
            prop_assert_eq!(&store.list("", Some(list.revision), None, 100).unwrap(), list);
            let mut entries: std::collections::BTreeMap<_, _> = list.entries.iter().cloned().collect();
            for change in store.changes("", list.revision, 1000).unwrap().0 {
                match change.entry {
                    Some(entry) => entries.insert(change.key.to_string(), entry),
                    None => entries.remove(&*change.key),
                };
            }
            prop_assert_eq!(entries.into_iter().collect::<Vec<_>>(), now.entries.clone());
        }
    }
}
