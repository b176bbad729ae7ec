//! Forecasts of the last seconds: several people who ask the same of a machine have it looked at once.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::StatusCode;
use parking_lot::Mutex;

use super::Refusal;

/// How long a forecast holds.
const HOLDS: Duration = Duration::from_secs(10);
/// How long it is waited for another forecast of the same machine: with the time that one takes, less than the control plane waits for a reply.
const PATIENCE: Duration = Duration::from_secs(4);

/// The last forecast of each VMM.
#[derive(Debug, Default)]
pub(super) struct Foretold {
    machines: Mutex<HashMap<String, Arc<Mutex<Option<Last>>>>>,
}

#[derive(Debug)]
struct Last {
    query: String,
    at: Instant,
    said: Vec<u8>,
}

impl Foretold {
    /// What was said to the same question in the last seconds, or is said now. A refusal is not kept. One at a time for each machine: what the engine says
    /// then is what this one asked for.
    pub(super) fn get(
        &self,
        vmm: &str,
        query: &str,
        ask: impl FnOnce() -> Result<Vec<u8>, Refusal>,
    ) -> Result<Vec<u8>, Refusal> {
        let machine = self.machine(vmm);
        let mut last = machine.try_lock_for(PATIENCE).ok_or_else(|| {
            Refusal::new(StatusCode::CONFLICT, "the machine is being looked at by others: ask again")
        })?;
        if let Some(last) = last.as_ref().filter(|last| last.query == query && last.at.elapsed() < HOLDS) {
            return Ok(last.said.clone());
        }
        let said = ask()?;
        *last = Some(Last { query: query.to_owned(), at: Instant::now(), said: said.clone() });
        Ok(said)
    }

    /// The place of a VMM. Those in which nothing is that holds, and in which nobody is, are removed: there are no more than were asked
    /// about lately.
    fn machine(&self, vmm: &str) -> Arc<Mutex<Option<Last>>> {
        let mut machines = self.machines.lock();
        machines.retain(|_, machine| {
            let holds = |last: &Option<Last>| last.as_ref().is_some_and(|last| last.at.elapsed() < HOLDS);
            Arc::strong_count(machine) > 1 || machine.try_lock().is_none_or(|last| holds(&last))
        });
        machines.entry(vmm.to_owned()).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_question_is_asked_once_and_another_one_again() {
        let foretold = Foretold::default();
        let asked = Mutex::new(Vec::new());
        let get = |vmm: &str, query: &str| {
            foretold.get(vmm, query, || {
                asked.lock().push(format!("{vmm} {query}"));
                Ok(query.as_bytes().to_vec())
            })
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert_eq!(get("a", "1").unwrap(), b"1"));
            }
        });
        get("a", "2").unwrap();
        get("b", "2").unwrap();
        assert_eq!(*asked.lock(), ["a 1", "a 2", "b 2"]);
    }

    #[test]
    fn a_refusal_is_not_kept() {
        let foretold = Foretold::default();
        assert!(foretold.get("a", "1", || Err(Refusal::not_found("its VMM has gone"))).is_err());
        assert_eq!(foretold.get("a", "1", || Ok(vec![1])).unwrap(), [1]);
    }

    #[test]
    fn machines_of_which_nothing_holds_are_forgotten() {
        let foretold = Foretold::default();
        for vmm in ["a", "b", "c"] {
            let _ = foretold.get(vmm, "1", || Err(Refusal::not_found("its VMM has gone")));
        }
        foretold.get("d", "1", || Ok(vec![1])).unwrap();
        assert_eq!(foretold.machines.lock().len(), 1);
    }
}
