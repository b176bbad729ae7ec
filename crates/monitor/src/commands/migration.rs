use address::{Address, AddressError};

use super::{
    Context, Outcome,
    arguments::{Arguments, not_accepted},
    done,
};
use crate::{
    CommandError, Handler,
    types::{MigrationCapability, MigrationCapabilityStatus, MigrationStatus},
};

pub(super) fn migrate(context: Context<'_>, mut arguments: Arguments) -> Outcome {
    let destination = address(&mut arguments)?;
    destination.check_to_dial()?;
    // Old clients send these with `false`; what they ask for with `true` does not exist.
    let resume = arguments.optional_bool("resume")?.unwrap_or(false);
    let session = arguments.optional_string("whimbrel-session")?;
    for name in ["detach", "blk", "inc"] {
        if arguments.optional_bool(name)? == Some(true) && name != "detach" {
            return Err(CommandError::generic(format!("Parameter '{name}' is not supported")));
        }
    }
    arguments.finish()?;
    if resume && session.is_some() {
        return Err(CommandError::generic(
            "Parameter 'whimbrel-session' is not for 'resume', which goes on in the session that there is",
        ));
    }
    done(if resume {
        context.handler.migrate_resume(&destination)
    } else {
        context.handler.migrate(&destination, session.as_deref())
    })
}

pub(super) fn migrate_incoming(context: Context<'_>, mut arguments: Arguments) -> Outcome {
    let listen = address(&mut arguments)?;
    let exit_on_error = arguments.optional_bool("exit-on-error")?.unwrap_or(true);
    arguments.finish()?;
    done(context.handler.migrate_incoming(&listen, exit_on_error))
}

pub(super) fn migrate_recover(context: Context<'_>, mut arguments: Arguments) -> Outcome {
    let listen = address(&mut arguments)?;
    arguments.finish()?;
    done(context.handler.migrate_recover(&listen))
}

pub(super) fn migrate_continue(context: Context<'_>, mut arguments: Arguments) -> Outcome {
    let state = arguments.string("state")?;
    arguments.finish()?;
    let state = serde_json::from_value::<MigrationStatus>(state.clone().into())
        .map_err(|_| not_accepted("state", &state))?;
    done(context.handler.migrate_continue(state))
}

pub(super) fn migrate_set_capabilities(context: Context<'_>, mut arguments: Arguments) -> Outcome {
    let capabilities =
        arguments.objects("capabilities")?.into_iter().map(capability).collect::<Result<Vec<_>, _>>()?;
    arguments.finish()?;
    done(set_capabilities(context, &capabilities))
}

/// Sets capabilities, and switches migration's events as they say.
pub(crate) fn set_capabilities(
    context: Context<'_>,
    capabilities: &[MigrationCapabilityStatus],
) -> Result<(), CommandError> {
    context.handler.migrate_set_capabilities(capabilities)?;
    if let Some(events) = capabilities.iter().rfind(|c| c.capability == MigrationCapability::Events) {
        context.events.set_migration_events(events.state);
    }
    Ok(())
}

/// Every capability that is known, and whether it is on.
pub(crate) fn capability_states(handler: &dyn Handler) -> Vec<MigrationCapabilityStatus> {
    let on = handler.query_migrate_capabilities();
    let state = |capability| MigrationCapabilityStatus { capability, state: on.contains(&capability) };
    MigrationCapability::ALL.into_iter().map(state).collect()
}

fn capability(mut arguments: Arguments) -> Result<MigrationCapabilityStatus, CommandError> {
    let name = arguments.string("capability")?;
    let state = arguments.bool("state")?;
    arguments.finish()?;
    let capability =
        MigrationCapability::from_name(&name).ok_or_else(|| not_accepted("capability", &name))?;
    Ok(MigrationCapabilityStatus { capability, state })
}

/// The address: `uri`, or the one element that `channels` may have.
fn address(arguments: &mut Arguments) -> Result<Address, CommandError> {
    let uri = arguments.optional_string("uri")?;
    let channels = arguments.optional_objects("channels")?;
    match (uri, channels) {
        (Some(uri), None) => Ok(uri.parse()?),
        (None, Some(channels)) => {
            let [main] = <[Arguments; 1]>::try_from(channels).map_err(|channels| {
                let count = channels.len();
                CommandError::generic(format!("Parameter 'channels' expects one channel, not {count}"))
            })?;
            channel(main)
        }
        (None, None) => Err(CommandError::generic("Parameter 'uri' is missing")),
        (Some(_), Some(_)) => {
            Err(CommandError::generic("Parameters 'uri' and 'channels' exclude each other: give one of them"))
        }
    }
}

/// `{"channel-type": "main", "addr": {"transport": "socket", "type": "inet", "host": …, "port": …}}`
fn channel(mut arguments: Arguments) -> Result<Address, CommandError> {
    let kind = arguments.string("channel-type")?;
    let mut addr = arguments.object("addr")?;
    arguments.finish()?;
    if kind != "main" {
        return Err(not_accepted("channel-type", &kind));
    }
    let transport = addr.string("transport")?;
    if transport != "socket" {
        return Err(not_accepted("transport", &transport));
    }
    let kind = addr.string("type")?;
    let address = match kind.as_str() {
        "inet" => Address::tcp(&addr.string("host")?, &addr.string("port")?)?,
        "unix" => Address::unix(&addr.string("path")?)?,
        _ => return Err(not_accepted("type", &kind)),
    };
    addr.finish()?;
    Ok(address)
}

impl From<AddressError> for CommandError {
    fn from(error: AddressError) -> Self {
        match error {
            // QEMU's words first: clients look for them.
            AddressError::Transport { .. } => {
                Self::generic(format!("Parameter 'uri' expects a valid migration protocol. {error}"))
            }
            _ => Self::generic(error.to_string()),
        }
    }
}
