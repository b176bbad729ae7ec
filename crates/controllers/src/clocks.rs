//! The clocks of agents, by the leases that they renew. Whether one is heard of is told by when a renewal was seen here, as in Kubernetes:
//! what the lease itself says is by the clock of its host, which may be wrong.

use std::{collections::BTreeMap, sync::Arc};

use fleet::Note;
use k8s_openapi::{
    api::{coordination::v1::Lease, core::v1::Node},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};

/// A clock that is further off, in seconds, is told of: much more than a renewal takes until it is seen.
const APART_SECONDS: i64 = 10;

/// What is known of them, by the UIDs of the leases.
#[derive(Debug, Default)]
pub(crate) struct Clocks(BTreeMap<String, Clock>);

#[derive(Debug)]
struct Clock {
    /// What the lease says.
    said: Option<Timestamp>,
    /// When that was first seen.
    heard: Timestamp,
    is_apart: bool,
}

/// A host whose clock is found to be wrong, or this one's.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Apart {
    node: String,
    /// How far it is ahead.
    seconds: i64,
}

impl Clocks {
    /// Sees the leases as they are `now`. Returns whose clocks have turned out to be wrong.
    pub(crate) fn look(&mut self, leases: &[Arc<Lease>], now: &Time) -> Vec<Apart> {
        let is_there = |uid: &str| leases.iter().any(|lease| lease.metadata.uid.as_deref() == Some(uid));
        self.0.retain(|uid, _| is_there(uid));
        leases.iter().filter_map(|lease| self.see(lease, now.0)).collect()
    }

    fn see(&mut self, lease: &Lease, now: Timestamp) -> Option<Apart> {
        let said = lease.spec.as_ref().and_then(|spec| Some(spec.renew_time.as_ref()?.0));
        let fresh = Clock { said, heard: now, is_apart: false };
        let clock = match self.0.entry(lease.metadata.uid.clone()?) {
            // How old it is cannot be told but by what it says: a host that died while nobody looked is not to count as one that was
            // just heard of. One whose clock is behind is silent until its next renewal is seen.
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(Clock { heard: said.map_or(now, |said| said.min(now)), ..fresh });
                return None;
            }
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
        };
        if clock.said == said {
            return None;
        }
        (clock.said, clock.heard) = (said, now);
        let seconds = said?.duration_since(now).as_secs();
        let was_apart = std::mem::replace(&mut clock.is_apart, seconds.abs() >= APART_SECONDS);
        let is_news = clock.is_apart && !was_apart;
        is_news.then(|| Apart { node: lease.metadata.name.clone().unwrap_or_default(), seconds })
    }

    /// When each lease that says when it was renewed was last seen to be.
    pub(crate) fn heard(&self) -> BTreeMap<String, Time> {
        let renewed = self.0.iter().filter(|(_, clock)| clock.said.is_some());
        renewed.map(|(uid, clock)| (uid.clone(), Time(clock.heard))).collect()
    }
}

impl Apart {
    /// What is said of it, if its node is there.
    pub(crate) fn note(&self, nodes: &[Arc<Node>]) -> Option<Note> {
        let Self { node, seconds } = self;
        let found = nodes.iter().find(|one| one.metadata.name.as_deref() == Some(node))?;
        let how = if *seconds > 0 { "ahead of" } else { "behind" };
        Some(Note {
            kind: "Node",
            namespace: "default".to_owned(),
            name: node.clone(),
            uid: found.metadata.uid.clone().unwrap_or_default(),
            reason: "ClockSkew",
            message: format!(
                "The clock of node {node} is {} s {how} that of the controllers: set the clocks of both hosts by NTP. Machines that come \
                 from there or go there, certificates and time stamps go by them",
                seconds.unsigned_abs()
            ),
            is_warning: true,
        })
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{
        api::coordination::v1::LeaseSpec,
        apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    };

    use super::*;

    fn time(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn lease(renewed: i64) -> Vec<Arc<Lease>> {
        let metadata =
            ObjectMeta { name: Some("a".into()), uid: Some("lease-a".into()), ..ObjectMeta::default() };
        let spec = LeaseSpec { renew_time: Some(MicroTime(time(renewed))), ..LeaseSpec::default() };
        vec![Arc::new(Lease { metadata, spec: Some(spec) })]
    }

    #[test]
    fn an_agent_whose_clock_is_wrong_is_heard_of_when_it_renews_and_that_is_told_once() {
        for apart in [-40, -3600, 40, 3600] {
            let mut clocks = Clocks::default();
            for second in (0..60).step_by(10) {
                let news = clocks.look(&lease(second + apart), &Time(time(second)));
                let heard = if second == 0 { apart.min(0) } else { second };
                assert_eq!(clocks.heard()["lease-a"], Time(time(heard)));
                let told = (second == 10).then(|| Apart { node: "a".into(), seconds: apart });
                assert_eq!(news, Vec::from_iter(told), "{apart}, {second}");
            }
            // It is silent from the last renewal on.
            assert!(clocks.look(&lease(50 + apart), &Time(time(99))).is_empty());
            assert_eq!(clocks.heard()["lease-a"], Time(time(50)));
        }
    }

    #[test]
    fn a_clock_that_is_right_again_and_then_wrong_is_told_of_again() {
        let mut clocks = Clocks::default();
        let mut told = Vec::new();
        for (second, apart) in [(0, 0), (10, -1), (20, -30), (30, -30), (40, 0), (50, 30)] {
            told.extend(
                clocks.look(&lease(second + apart), &Time(time(second))).into_iter().map(|one| one.seconds),
            );
        }
        assert_eq!(told, [-30, 30]);
        let nodes = [Arc::new(Node {
            metadata: ObjectMeta { name: Some("a".into()), ..ObjectMeta::default() },
            ..Node::default()
        })];
        let note = Apart { node: "a".into(), seconds: -40 }.note(&nodes).unwrap();
        assert!(note.message.contains("40 s behind") && note.is_warning, "{}", note.message);
        assert!(Apart { node: "b".into(), seconds: -40 }.note(&nodes).is_none());
    }

    #[test]
    fn a_lease_that_is_gone_is_forgotten() {
        let mut clocks = Clocks::default();
        clocks.look(&lease(0), &Time(time(0)));
        clocks.look(&[], &Time(time(10)));
        assert!(clocks.heard().is_empty());
    }
}
