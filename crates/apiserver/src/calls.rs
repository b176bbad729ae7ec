use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

use crate::ApiError;

/// Calls at a time: each holds a reply of some MiB, and that of a question a thread.
const MAX_CALLS: usize = 64;
/// Calls at a time to one node, whose agent has others to serve.
const MAX_CALLS_OF_NODE: usize = 8;

/// Calls to agents that are being made, by node. Copies count as one.
#[derive(Clone, Debug, Default)]
pub struct Calls(Arc<Mutex<BTreeMap<String, usize>>>);

/// A call that is being made, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    calls: Calls,
    node: String,
}

impl Calls {
    /// Counts one more, if there may be one.
    pub(crate) fn enter(&self, node: &str) -> Result<Place, ApiError> {
        let mut calls = self.0.lock();
        let too_many = |count: usize, whose: &str| {
            let why = format!("{count} calls to {whose} are being made, as many as there may be: ask again");
            Err(ApiError::new(429, "TooManyRequests", why))
        };
        if calls.values().sum::<usize>() >= MAX_CALLS {
            return too_many(MAX_CALLS, "agents");
        }
        if calls.get(node).is_some_and(|count| *count >= MAX_CALLS_OF_NODE) {
            return too_many(MAX_CALLS_OF_NODE, &format!("the agent of node {node}"));
        }
        *calls.entry(node.to_owned()).or_default() += 1;
        Ok(Place { calls: self.clone(), node: node.to_owned() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut calls = self.calls.0.lock();
        match calls.get_mut(&self.node) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(calls.remove(&self.node)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_node_cannot_have_all_calls_and_what_is_over_makes_room() {
        let calls = Calls::default();
        let mut places: Vec<_> = (0..MAX_CALLS_OF_NODE).map(|_| calls.enter("a").unwrap()).collect();
        let refusal = calls.clone().enter("a").unwrap_err();
        assert!(refusal.code == 429 && refusal.message.contains("node a"), "{refusal:?}");
        for index in places.len()..MAX_CALLS {
            places.push(calls.enter(&format!("n{index}")).unwrap());
        }
        assert_eq!(calls.enter("b").unwrap_err().code, 429);
        places.clear();
        assert!(calls.enter("a").is_ok() && calls.0.lock().is_empty());
    }
}
