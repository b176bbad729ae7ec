//! Events go after a while: they tell people what happened lately, and are no record.

use jiff::Timestamp;
use serde_json::Value;

use crate::{Api, form::object};

/// How long an event is kept after it last happened, in seconds, as in Kubernetes.
const KEPT_SECONDS: i64 = 3600;
/// How many are kept at most.
const KEPT: usize = 5000;
const PREFIX: &str = "/events/";

impl Api {
    /// Deletes events that are old, and the oldest where there are too many. What cannot be deleted now is next time.
    pub fn expire(&self, now: Timestamp) {
        let Ok(page) = self.store.list(PREFIX, None, None, usize::MAX) else { return };
        let mut events: Vec<_> = page
            .entries
            .iter()
            .map(|(key, entry)| (last_seen(&object(entry).unwrap_or_default()), key, entry.revision))
            .collect();
        events.sort();
        let surplus = events.len().saturating_sub(KEPT);
        for (index, (seen, key, revision)) in events.into_iter().enumerate() {
            let is_old = seen.is_none_or(|seen| now.duration_since(seen).as_secs() > KEPT_SECONDS);
            if !(is_old || index < surplus) {
                continue;
            }
            let _writing = self.writing.lock();
            if let Err(error) = self.store.delete(key, revision) {
                tracing::debug!(%error, "An event is kept");
            }
        }
    }
}

/// When an event last happened; `None` where it says nothing that is a time.
fn last_seen(event: &Value) -> Option<Timestamp> {
    let times = [&event["lastTimestamp"], &event["eventTime"], &event["metadata"]["creationTimestamp"]];
    times.iter().find_map(|time| time.as_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;
    use store::{Expect, Limits, Store};

    use super::*;
    use crate::Tokens;

    #[test]
    fn old_events_go_and_of_too_many_the_oldest() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&folder.path().join("store"), Limits::default()).unwrap());
        let api = Api::new(store.clone(), objects::kinds(), Tokens::default()).unwrap();
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let at = |seconds: i64| Timestamp::from_second(1_800_000_000 - seconds).unwrap().to_string();
        for (name, time) in [("fresh", at(10)), ("old", at(4000)), ("none", "never".to_owned())] {
            let event = json!({ "metadata": { "name": name }, "lastTimestamp": time }).to_string();
            store.put(&format!("/events/default/{name}"), Expect::Absent, event.as_bytes()).unwrap();
        }
        api.expire(now);
        let left = store.list("/events/", None, None, 10).unwrap().entries;
        let names: Vec<_> = left.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(names, ["/events/default/fresh"]);
        assert!(store.get("/namespaces/default").is_some());
    }
}
