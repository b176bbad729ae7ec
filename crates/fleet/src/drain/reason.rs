//! Why a drain is given up.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use objects::NodeDrain;

/// Why a drain is given up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    Cancelled,
    DeadlineExceeded,
}

/// Why a drain is to be given up, if it is. To delete it is to cancel it.
pub(super) fn reason(drain: &NodeDrain, now: &Time) -> Option<Reason> {
    if drain.spec.cancel || drain.metadata.deletion_timestamp.is_some() {
        return Some(Reason::Cancelled);
    }
    let deadline = drain.status.as_ref().and_then(|status| status.deadline_timestamp.as_ref())?;
    (now.0 >= deadline.0).then_some(Reason::DeadlineExceeded)
}
