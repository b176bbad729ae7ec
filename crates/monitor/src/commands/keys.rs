use std::time::Duration;

use super::{
    Context, Outcome,
    arguments::{Arguments, in_range, not_accepted},
    done,
};
use crate::{CommandError, types::KeyCode};

/// How long keys are held when the client does not say: QEMU's default.
const DEFAULT_HOLD_MS: u64 = 100;
/// The longest that keys may be held. A mistyped number must not leave a key pressed for hours.
const MAX_HOLD_MS: u64 = 60_000;
/// The most keys that are pressed at once: QEMU's limit.
const MAX_KEYS: usize = 16;

pub(super) fn send_key(context: Context<'_>, mut arguments: Arguments) -> Outcome {
    let keys = arguments.objects("keys")?.into_iter().map(key).collect::<Result<Vec<_>, _>>()?;
    let hold = arguments.optional_u64("hold-time")?.unwrap_or(DEFAULT_HOLD_MS);
    arguments.finish()?;
    let hold = in_range("hold-time", hold, 0..=MAX_HOLD_MS)?;
    if keys.len() > MAX_KEYS {
        return Err(CommandError::generic(format!("Parameter 'keys' has more than {MAX_KEYS} keys")));
    }
    done(context.handler.send_key(&keys, Duration::from_millis(hold)))
}

/// An element of `keys`: `{"type": "qcode", "data": "ret"}` or `{"type": "number", "data": 28}`.
fn key(mut arguments: Arguments) -> Result<KeyCode, CommandError> {
    let kind = arguments.string("type")?;
    let key = match kind.as_str() {
        "qcode" => {
            let name = arguments.string("data")?;
            KeyCode::from_qcode(&name).ok_or_else(|| not_accepted("data", &name))?
        }
        "number" => {
            let number = arguments.u64("data")?;
            KeyCode::from_scancode(number).ok_or_else(|| {
                CommandError::generic(format!(
                    "Key number {number} is not in the range of 1 to 88: use a qcode"
                ))
            })?
        }
        _ => return Err(not_accepted("type", &kind)),
    };
    arguments.finish()?;
    Ok(key)
}

/// Keys joined by `-`, such as `ctrl-alt-delete`, and how long they are held in milliseconds: the arguments of `sendkey`.
pub(crate) fn parse_combination(
    keys: &str,
    hold: Option<&str>,
) -> Result<(Vec<KeyCode>, Duration), CommandError> {
    let keys = keys
        .split('-')
        .map(|name| KeyCode::from_qcode(name).ok_or_else(|| not_accepted("keys", name)))
        .collect::<Result<Vec<_>, _>>()?;
    let hold = match hold {
        None => DEFAULT_HOLD_MS,
        Some(text) => text.parse().map_err(|_| not_accepted("hold-time", text))?,
    };
    let hold = in_range("hold-time", hold, 0..=MAX_HOLD_MS)?;
    if keys.len() > MAX_KEYS {
        return Err(CommandError::generic(format!("Parameter 'keys' has more than {MAX_KEYS} keys")));
    }
    Ok((keys, Duration::from_millis(hold)))
}
