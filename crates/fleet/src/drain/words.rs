//! What is said of a drain.

use objects::{Condition, ConditionStatus, NodeDrain};

use crate::{
    Intent, Note,
    world::{name_of, uid_of},
};

pub(super) fn complete(status: ConditionStatus, reason: &str, message: String) -> Condition {
    Condition {
        kind: "Complete".to_owned(),
        status,
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: None,
    }
}

pub(super) fn note(drain: &NodeDrain, reason: &'static str, message: String, is_warning: bool) -> Intent {
    Intent::Record(Note {
        kind: "NodeDrain",
        namespace: "default".to_owned(),
        name: name_of(&drain.metadata).to_owned(),
        uid: uid_of(&drain.metadata).to_owned(),
        reason,
        message,
        is_warning,
    })
}

pub(super) fn blocked_condition(blocked: u32) -> Condition {
    let (status, reason) = match blocked {
        0 => (ConditionStatus::False, "AllCanMove"),
        _ => (ConditionStatus::True, "SomeCannotMove"),
    };
    Condition {
        kind: "Blocked".to_owned(),
        status,
        reason: Some(reason.to_owned()),
        message: Some(format!("{blocked} machines cannot move as things are.")),
        last_transition_time: None,
    }
}

pub(super) fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
