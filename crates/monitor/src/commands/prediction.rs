use std::time::Duration;

use address::Address;

use super::{
    Context, Outcome,
    arguments::{Arguments, in_range},
    done,
};
use crate::{CommandError, types::PredictionRequest};

pub(super) fn whimbrel_predict(context: Context<'_>, mut arguments: Arguments) -> Outcome {
    let bandwidth = arguments.optional_u64("bandwidth")?;
    let uri = arguments.optional_string("uri")?;
    let time = arguments.optional_u64("time")?;
    let id = arguments.optional_u64("id")?;
    arguments.finish()?;
    let request = PredictionRequest { id, ..request(bandwidth, uri.as_deref(), time)? };
    done(context.handler.whimbrel_predict(request))
}

/// What is asked for, if it is in range. `time` is in milliseconds.
pub(crate) fn request(
    bandwidth: Option<u64>,
    uri: Option<&str>,
    time: Option<u64>,
) -> Result<PredictionRequest, CommandError> {
    if bandwidth.is_some() && uri.is_some() {
        return Err(CommandError::generic(
            "Parameters 'bandwidth' and 'uri' exclude each other: say what the way takes, or have it measured",
        ));
    }
    let to = uri.map(str::parse::<Address>).transpose()?;
    if let Some(to) = &to {
        to.check_to_dial()?;
    }
    if let Some(bandwidth) = bandwidth {
        in_range("bandwidth", bandwidth, 1..=u64::MAX)?;
    }
    let time = time.unwrap_or(PredictionRequest::DEFAULT_TIME_MS);
    let time = in_range("time", time, PredictionRequest::TIME_MS)?;
    Ok(PredictionRequest { bandwidth, to, time: Duration::from_millis(time), id: None })
}
