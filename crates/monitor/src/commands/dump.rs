use serde_json::{Value, json};

use super::{
    Context, Outcome,
    arguments::{Arguments, not_accepted},
    done, to_value,
};
use crate::{CommandError, types::DumpRequest};

/// The format that there is.
const ELF: &str = "elf";

pub(super) fn dump_guest_memory(context: Context<'_>, mut arguments: Arguments) -> Outcome {
    let paging = arguments.bool("paging")?;
    let protocol = arguments.string("protocol")?;
    let detach = arguments.optional_bool("detach")?.unwrap_or(false);
    let range = (arguments.optional_u64("begin")?, arguments.optional_u64("length")?);
    let format = arguments.optional_string("format")?;
    arguments.finish()?;
    if paging {
        return Err(CommandError::generic("Memory is written by physical address: set 'paging' to false"));
    }
    if range != (None, None) {
        return Err(CommandError::generic("All memory is written: leave 'begin' and 'length' out"));
    }
    if let Some(other) = format.filter(|format| format != ELF) {
        return Err(not_accepted("format", &other));
    }
    done(context.handler.dump_guest_memory(&request(&protocol, detach)?))
}

/// A dump to this place.
pub(crate) fn request(protocol: &str, detach: bool) -> Result<DumpRequest, CommandError> {
    match protocol.strip_prefix("file:").filter(|path| path.starts_with('/')) {
        Some(path) => Ok(DumpRequest { path: path.into(), detach }),
        None => Err(CommandError::generic(format!(
            "A dump goes to 'file:' and an absolute path, not to '{protocol}'"
        ))),
    }
}

pub(super) fn query_dump(context: Context<'_>) -> Outcome {
    to_value(&context.handler.query_dump())
}

/// The formats that there are.
pub(super) fn capability() -> Value {
    json!({ "formats": [ELF] })
}
