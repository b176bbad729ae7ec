//! Which paths of disks this host has, for those who place machines. Storage may not reply: each path is looked at on a thread of its own, and
//! nobody waits for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use objects::{VirtualMachineInstance, disk_places};
use parking_lot::Mutex;
use serde_json::json;

/// How often a path is looked at.
const LOOK: Duration = Duration::from_secs(10);
/// How old a word of a path may be.
const FRESH: Duration = Duration::from_secs(30);
/// How often objects are looked at for new paths.
const GATHER: Duration = Duration::from_millis(200);
/// Paths at most, and bytes of all of them: they are said in an annotation. What is beyond is not said, and keeps machines away.
const MAX_PATHS: usize = 256;
const MAX_BYTES: usize = 64 << 10;

/// Which paths this host has.
#[derive(Debug, Default)]
pub(crate) struct Places {
    seen: BTreeMap<String, Place>,
    gathered: Option<Instant>,
}

#[derive(Debug)]
struct Place {
    asked: Instant,
    told: Arc<Mutex<Told>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Told {
    is_asked: bool,
    last: Option<(Instant, bool)>,
}

impl Places {
    /// Has the paths looked at that instances need, of which those may be forgotten that none needs any more.
    pub(crate) fn gather(&mut self, instances: &[Arc<VirtualMachineInstance>]) {
        if self.gathered.is_some_and(|gathered| gathered.elapsed() < GATHER) {
            return;
        }
        self.gathered = Some(Instant::now());
        let mut bytes = 0;
        let wanted: BTreeSet<_> = instances.iter().flat_map(|instance| disk_places(instance)).collect();
        let wanted: BTreeSet<_> = wanted
            .into_iter()
            .take(MAX_PATHS)
            .take_while(|path| {
                bytes += path.len();
                bytes <= MAX_BYTES
            })
            .collect();
        self.seen.retain(|path, _| wanted.contains(path.as_str()));
        for path in wanted {
            let place = self
                .seen
                .entry(path.to_owned())
                .or_insert_with(|| Place { asked: Instant::now(), told: Arc::default() });
            place.look(path);
        }
    }

    /// The word of all of them, as the annotation of a Node has it: of those only that have been looked at.
    pub(crate) fn word(&self) -> String {
        let now = Instant::now();
        let said = self.seen.iter().filter_map(|(path, place)| {
            let told = *place.told.lock();
            let is_there = match told.last {
                Some((when, is_there)) => is_there && now.duration_since(when) < FRESH,
                // It has had its time.
                None if now.duration_since(place.asked) > LOOK => false,
                None => return None,
            };
            Some((path.as_str(), is_there))
        });
        json!(said.collect::<BTreeMap<_, _>>()).to_string()
    }
}

impl Place {
    /// Looks, if it is time and no look is under way.
    fn look(&mut self, path: &str) {
        let mut told = self.told.lock();
        let is_due = told.last.is_none_or(|(when, _)| when.elapsed() >= LOOK);
        if told.is_asked || !is_due {
            return;
        }
        told.is_asked = true;
        drop(told);
        self.asked = Instant::now();
        let (path, told) = (path.to_owned(), self.told.clone());
        let look = move || {
            let is_there = fs::metadata(&path).is_ok();
            *told.lock() = Told { is_asked: false, last: Some((Instant::now(), is_there)) };
        };
        // Without a thread it is tried again the next time.
        if thread::Builder::new().name("disk-place".to_owned()).spawn(look).is_err() {
            self.told.lock().is_asked = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn instance(path: &str) -> Arc<VirtualMachineInstance> {
        let instance = json!({
            "apiVersion": "whimbrel.dev/v1", "kind": "VirtualMachineInstance", "metadata": {},
            "spec": {
                "domain": { "memory": { "guest": "64Mi" }, "firmware": { "kernelBoot": {} } },
                "volumes": [{ "name": "a", "hostDisk": { "path": path } }],
            },
        });
        Arc::new(serde_json::from_value(instance).unwrap())
    }

    fn word(places: &Places, count: usize) -> Value {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let word: Value = serde_json::from_str(&places.word()).unwrap();
            if word.as_object().unwrap().len() == count {
                return word;
            }
            assert!(Instant::now() < deadline, "{word}");
            thread::yield_now();
        }
    }

    #[test]
    fn what_is_there_is_told_from_what_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        fs::write(at("there"), "x").unwrap();
        let mut places = Places::default();
        assert_eq!(places.word(), "{}");
        places.gather(&[instance(&at("there")), instance(&at("not"))]);
        let word = word(&places, 3);
        assert_eq!(
            word,
            json!({ at("there"): true, at("not"): false, folder.path().display().to_string(): true })
        );
        places.gathered = None;
        places.gather(&[]);
        assert_eq!(places.word(), "{}");
    }

    #[test]
    fn what_does_not_reply_is_not_there() {
        let mut places = Places::default();
        let told = Arc::new(Mutex::new(Told { is_asked: true, last: None }));
        let asked = Instant::now().checked_sub(2 * LOOK).unwrap();
        places.seen.insert("/hangs".to_owned(), Place { asked, told: told.clone() });
        assert_eq!(places.word(), r#"{"/hangs":false}"#);
        told.lock().last = Some((Instant::now().checked_sub(2 * FRESH).unwrap(), true));
        assert_eq!(places.word(), r#"{"/hangs":false}"#);
        told.lock().last = Some((Instant::now(), true));
        assert_eq!(places.word(), r#"{"/hangs":true}"#);
    }
}
