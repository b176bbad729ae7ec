//! Two words for people, when it cannot be found out who has a machine. Each says what it risks, and wants to be sure.

use super::{Context, Outcome, arguments::Arguments, done};
use crate::CommandError;

/// What `whimbrel-take-back` risks.
pub(crate) const TAKE_BACK_RISK: &str = "The machine goes on here as it was when it was stopped. If it ran at the destination, even for \
     a moment, two machines have lived on from there: their disks are damaged as soon as both have written, and what the \
     other one promised to its peers is not true of this one. Be sure that the process of the destination is dead, and that \
     the machine never ran there (its log says so). Only a disk that is locked by the destination stops you";

/// What `whimbrel-let-go` risks.
pub(crate) const LET_GO_RISK: &str = "What is here of the machine is thrown away. If it does not run at the destination, this was the \
     only copy, and the machine is lost like one whose host lost its power. Be sure that the machine runs, or ran, there";

pub(super) fn take_back(context: Context<'_>, arguments: Arguments) -> Outcome {
    forced(context, arguments, TAKE_BACK_RISK)?;
    done(context.handler.take_back())
}

pub(super) fn let_go(context: Context<'_>, arguments: Arguments) -> Outcome {
    forced(context, arguments, LET_GO_RISK)?;
    done(context.handler.let_go())
}

fn forced(context: Context<'_>, mut arguments: Arguments, risk: &str) -> Result<(), CommandError> {
    let force = arguments.optional_bool("force")?;
    arguments.finish()?;
    context.handler.may_decide()?;
    match force {
        Some(true) => Ok(()),
        _ => Err(CommandError::generic(format!("{risk}. If you are, give \"force\": true"))),
    }
}
