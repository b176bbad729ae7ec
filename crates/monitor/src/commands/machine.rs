use super::{
    Context, Outcome,
    arguments::{Arguments, in_range},
    done, to_value,
};
use crate::{CommandError, types::AnnounceParameters};

pub(super) fn balloon(context: Context<'_>, mut arguments: Arguments) -> Outcome {
    let value = arguments.i64("value")?;
    arguments.finish()?;
    match u64::try_from(value) {
        Ok(bytes) if bytes > 0 => done(context.handler.balloon(bytes)),
        _ => Err(CommandError::generic("Parameter 'value' expects a size of 1 byte or more")),
    }
}

/// With or without `query-nodes`: a disk and its image are one.
pub(super) fn query_blockstats(context: Context<'_>, mut arguments: Arguments) -> Outcome {
    arguments.optional_bool("query-nodes")?;
    arguments.finish()?;
    to_value(&context.handler.query_blockstats())
}

/// QEMU demands all four numbers; here those that are left out are as in the migration parameters.
pub(super) fn announce_self(context: Context<'_>, mut arguments: Arguments) -> Outcome {
    let default = context.handler.query_migrate_parameters().announce;
    let mut number = |name: &str, range: std::ops::RangeInclusive<u64>, default: u64| {
        let value = arguments.optional_u64(name)?.unwrap_or(default);
        in_range(name, value, range)
    };
    let announce = AnnounceParameters {
        initial: number("initial", AnnounceParameters::PAUSE_MS, default.initial)?,
        max: number("max", AnnounceParameters::PAUSE_MS, default.max)?,
        rounds: number("rounds", AnnounceParameters::ROUNDS, default.rounds)?,
        step: number("step", AnnounceParameters::STEP_MS, default.step)?,
    };
    arguments.finish()?;
    done(context.handler.announce_self(&announce))
}
