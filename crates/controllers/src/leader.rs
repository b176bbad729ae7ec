//! Of several that could, one decides: who holds a Lease.
//!
//! Nobody compares clocks. A candidate takes a lease over when it has not changed for as long as it says, by the candidate's own clock since it
//! saw the last change; a leader stops when it could not renew for two thirds of that, by its own. That clock cannot be set, and goes on while
//! a host sleeps. Where two clocks differ by more than the third that is left, two may lead for a moment: their writes carry the revision that
//! they were made from, and so the second of two fails.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, Error, api::PostParams};
use tokio::time::{sleep, timeout};

/// How long a lease holds after it was renewed.
const HOLDS: Duration = Duration::from_secs(15);
/// How long a leader goes on that cannot renew.
const GIVE_UP: Duration = Duration::from_secs(10);
/// How often is looked, and renewed.
const LOOK: Duration = Duration::from_secs(2);
/// The longest that a lease is believed which says that it holds longer, in seconds.
const LONGEST: i32 = 300;

/// Who wants to lead.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The namespace of the lease.
    pub namespace: String,
    /// The lease.
    pub name: String,
    /// Who this is. No other candidate, earlier ones included, has this name.
    pub identity: String,
    /// A clock that nobody sets, and that goes on while the host sleeps: time since some moment.
    pub clock: fn() -> Duration,
}

/// Why somebody leads no more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LeaderError {
    /// It has taken too long to renew the lease.
    #[error("The lease {name} could not be renewed for {} s: another may lead now", GIVE_UP.as_secs())]
    NotRenewed {
        /// The lease.
        name: String,
    },
    /// Somebody else has the lease.
    #[error("The lease {name} is {holder}'s now")]
    Lost {
        /// The lease.
        name: String,
        /// Whose it is.
        holder: String,
    },
}

/// Waits until this candidate leads, then does `work` for as long as it does. Whoever leads no more ends: its process is to be started again, as
/// mirrors and writes under way may be old.
///
/// # Errors
/// It led, and leads no more. Without an error the work is done, and the lease is given back.
pub async fn lead(
    client: &Client,
    candidate: &Candidate,
    work: impl Future<Output = ()>,
) -> Result<(), LeaderError> {
    let leases = Api::namespaced(client.clone(), &candidate.namespace);
    let mut seat = Seat { leases, candidate, seen: None };
    let mut waits = false;
    let taken = loop {
        if let Some(begun) = seat.take().await {
            break begun;
        }
        if !waits {
            tracing::info!(lease = candidate.name, holder = seat.holder(), "Waits for the lease");
        }
        waits = true;
        sleep(LOOK).await;
    };
    tracing::info!(lease = candidate.name, identity = candidate.identity, "Leads");
    let outcome = tokio::select! {
        () = work => Ok(()),
        error = seat.keep(taken) => Err(error),
    };
    if outcome.is_ok() {
        seat.give_back().await;
    }
    outcome
}

/// What came of renewing a lease.
enum Renewal {
    Done,
    /// Somebody wrote it at the same time.
    Overtaken,
    /// It is somebody else's.
    Lost(String),
}

/// The lease as a candidate sees it.
struct Seat<'a> {
    leases: Api<Lease>,
    candidate: &'a Candidate,
    /// As it was last seen, and since when it has not changed.
    seen: Option<(Lease, Duration)>,
}

impl Seat<'_> {
    /// Takes the lease if it is free, and says when that was begun. Whatever fails is tried again.
    async fn take(&mut self) -> Option<Duration> {
        let begun = (self.candidate.clock)();
        match timeout(LOOK * 2, self.try_to_take()).await {
            Ok(Ok(is_ours)) => is_ours.then_some(begun),
            Ok(Err(error)) => {
                tracing::warn!(lease = self.candidate.name, %error, "Cannot take the lease");
                None
            }
            Err(_) => None,
        }
    }

    async fn try_to_take(&mut self) -> kube::Result<bool> {
        let name = &self.candidate.name;
        let Some(found) = self.leases.get_opt(name).await? else {
            return self.write(None).await;
        };
        let now = (self.candidate.clock)();
        let is_same = self.seen.as_ref().is_some_and(|(seen, _)| seen.spec == found.spec);
        if !is_same {
            self.seen = Some((found.clone(), now));
        }
        let since = self.seen.as_ref().map_or(now, |(_, since)| *since);
        // Ours is what was written although no reply came.
        let is_free = ["", &self.candidate.identity].contains(&holder(&found))
            || now.saturating_sub(since) >= duration(&found);
        if is_free { self.write(Some(found)).await } else { Ok(false) }
    }

    /// Renews the lease, which was last written by what began at `renewed`, until it cannot be had any more, and says why. No wait is longer than
    /// this leader still leads.
    async fn keep(&mut self, mut renewed: Duration) -> LeaderError {
        let name = self.candidate.name.clone();
        loop {
            sleep(LOOK.min(self.time_left(renewed))).await;
            // A renewal counts from when it was begun: that is what others see at the latest.
            let begun = (self.candidate.clock)();
            // A host that slept may have been overtaken, whatever the server says in a moment.
            let left = GIVE_UP.saturating_sub(begun.saturating_sub(renewed));
            if left.is_zero() {
                return LeaderError::NotRenewed { name };
            }
            match timeout((LOOK * 2).min(left), self.renew()).await {
                Ok(Ok(Renewal::Done)) => renewed = begun,
                // The next look tells by whom.
                Ok(Ok(Renewal::Overtaken)) => {}
                Ok(Ok(Renewal::Lost(holder))) => return LeaderError::Lost { name, holder },
                Ok(Err(error)) => tracing::warn!(lease = name, %error, "Cannot renew the lease"),
                Err(_) => tracing::warn!(lease = name, "Renewing the lease takes too long"),
            }
            if self.time_left(renewed).is_zero() {
                return LeaderError::NotRenewed { name };
            }
        }
    }

    /// For how long this leader leads yet that last renewed at `renewed`.
    fn time_left(&self, renewed: Duration) -> Duration {
        GIVE_UP.saturating_sub((self.candidate.clock)().saturating_sub(renewed))
    }

    async fn renew(&mut self) -> kube::Result<Renewal> {
        let found = self.leases.get_opt(&self.candidate.name).await?;
        if let Some(lease) = &found
            && holder(lease) != self.candidate.identity
        {
            return Ok(Renewal::Lost(holder(lease).to_owned()));
        }
        Ok(if self.write(found).await? { Renewal::Done } else { Renewal::Overtaken })
    }

    /// Has others take it at once. If that fails they wait.
    async fn give_back(&self) {
        if !matches!(timeout(LOOK, self.try_to_give_back()).await, Ok(Ok(()))) {
            tracing::info!(lease = self.candidate.name, "The lease was not given back: it runs out");
        }
    }

    async fn try_to_give_back(&self) -> kube::Result<()> {
        let Some(mut lease) = self.leases.get_opt(&self.candidate.name).await? else { return Ok(()) };
        if holder(&lease) == self.candidate.identity {
            lease.spec.get_or_insert_default().holder_identity = Some(String::new());
            self.leases.replace(&self.candidate.name, &PostParams::default(), &lease).await?;
        }
        Ok(())
    }

    /// Writes the lease as ours, over what was found. Whether it is.
    async fn write(&self, found: Option<Lease>) -> kube::Result<bool> {
        let now = MicroTime(Timestamp::now());
        let before = found.clone().unwrap_or_default();
        let was_ours = holder(&before) == self.candidate.identity;
        let old = before.spec.unwrap_or_default();
        let spec = LeaseSpec {
            holder_identity: Some(self.candidate.identity.clone()),
            lease_duration_seconds: i32::try_from(HOLDS.as_secs()).ok(),
            acquire_time: old.acquire_time.filter(|_| was_ours).or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(old.lease_transitions.unwrap_or(0).saturating_add(i32::from(!was_ours))),
            ..LeaseSpec::default()
        };
        let metadata = match &found {
            // With the revision that was found.
            Some(lease) => lease.metadata.clone(),
            None => ObjectMeta { name: Some(self.candidate.name.clone()), ..ObjectMeta::default() },
        };
        let lease = Lease { metadata, spec: Some(spec) };
        let options = PostParams::default();
        let outcome = match found {
            Some(_) => self.leases.replace(&self.candidate.name, &options, &lease).await,
            None => self.leases.create(&options, &lease).await,
        };
        match outcome {
            Ok(_) => Ok(true),
            Err(Error::Api(refusal)) if refusal.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn holder(&self) -> &str {
        self.seen.as_ref().map_or("", |(lease, _)| holder(lease))
    }
}

fn holder(lease: &Lease) -> &str {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
}

/// How long a lease holds by its own word, within reason.
fn duration(lease: &Lease) -> Duration {
    let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
    seconds.map_or(HOLDS, |seconds| Duration::from_secs(seconds.clamp(1, LONGEST).unsigned_abs().into()))
}
