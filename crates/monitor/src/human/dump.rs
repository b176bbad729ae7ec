use super::{Failure, Outcome, TOO_FEW, TOO_MANY};
use crate::{
    CommandError,
    commands::{self, Context},
};

/// `dump-guest-memory [-d] filename`.
pub(super) fn dump(context: Context<'_>, arguments: &[&str]) -> Outcome {
    let (options, rest): (Vec<&str>, Vec<&str>) = arguments.iter().partition(|word| word.starts_with('-'));
    let detach = match options[..] {
        [] => false,
        ["-d"] => true,
        _ => return Err(Failure::Usage("-d can be given, and nothing else that begins with -")),
    };
    let path = match rest[..] {
        [path] => path,
        [] => return Err(TOO_FEW),
        _ => return Err(TOO_MANY),
    };
    context.handler.dump_guest_memory(&commands::dump_request(&format!("file:{path}"), detach)?)?;
    Ok(String::new())
}

/// `info dump`.
pub(super) fn info(context: Context<'_>) -> Result<String, CommandError> {
    let info = context.handler.query_dump();
    let mut text = format!("Status: {}\n", info.status.name());
    if info.total > 0 {
        let percent = info.completed as f64 * 100.0 / info.total as f64;
        text += &format!("Finished: {percent:.2} %\n");
    }
    Ok(text)
}
