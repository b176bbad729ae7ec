//! The commands of QMP: their names, and how each turns a client's arguments into a call of the [`Handler`].

mod arguments;
mod decide;
mod dirty_rate;
mod dump;
mod encodings;
mod ending;
mod keys;
mod machine;
mod migration;
mod parameters;
mod prediction;

use arguments::Arguments;
pub(crate) use decide::{LET_GO_RISK, TAKE_BACK_RISK};
pub(crate) use dirty_rate::request as dirty_rate_request;
pub(crate) use dump::request as dump_request;
pub(crate) use keys::parse_combination;
pub(crate) use migration::{capability_states, set_capabilities};
pub(crate) use parameters::{parse_size, parse_text as parse_parameter};
pub(crate) use prediction::request as prediction_request;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{CommandError, Events, Handler, human, protocol::Request, types::VersionInfo};

/// What a command works on.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) handler: &'a dyn Handler,
    pub(crate) events: &'a Events,
}

type Outcome = Result<Value, CommandError>;

/// A command: its name, and what it does.
struct Command {
    name: &'static str,
    run: Run,
}

enum Run {
    /// Takes no arguments.
    Plain(fn(Context<'_>) -> Outcome),
    /// Takes arguments, and calls [`Arguments::finish`] before it does anything.
    With(fn(Context<'_>, Arguments) -> Outcome),
}

/// Every command, in the order in which `query-commands` lists them.
const COMMANDS: [Command; 44] = [
    Command { name: NEGOTIATE, run: Run::With(|_, _| Err(negotiated_already())) },
    Command { name: "query-version", run: Run::Plain(|_| to_value(&VersionInfo::default())) },
    Command { name: "query-commands", run: Run::Plain(|_| Ok(query_commands())) },
    Command { name: "query-status", run: Run::Plain(|c| to_value(&c.handler.query_status())) },
    Command { name: "query-name", run: Run::Plain(|c| to_value(&c.handler.query_name())) },
    Command { name: "query-uuid", run: Run::Plain(|c| to_value(&c.handler.query_uuid())) },
    Command { name: "query-cpus-fast", run: Run::Plain(|c| to_value(&c.handler.query_cpus_fast())) },
    Command { name: "stop", run: Run::Plain(|c| done(c.handler.stop())) },
    Command { name: "cont", run: Run::Plain(|c| done(c.handler.cont())) },
    Command { name: "system_powerdown", run: Run::Plain(|c| done(c.handler.system_powerdown())) },
    Command { name: "system_reset", run: Run::Plain(|c| done(c.handler.system_reset())) },
    Command { name: "quit", run: Run::Plain(|c| done(c.handler.quit())) },
    Command { name: "query-blockstats", run: Run::With(machine::query_blockstats) },
    Command { name: "query-balloon", run: Run::Plain(|c| to_value(&c.handler.query_balloon()?)) },
    Command { name: "balloon", run: Run::With(machine::balloon) },
    Command { name: "send-key", run: Run::With(keys::send_key) },
    Command { name: "announce-self", run: Run::With(machine::announce_self) },
    Command { name: "migrate", run: Run::With(migration::migrate) },
    Command { name: "migrate-incoming", run: Run::With(migration::migrate_incoming) },
    Command { name: "migrate_cancel", run: Run::Plain(|c| done(c.handler.migrate_cancel())) },
    Command { name: "migrate-continue", run: Run::With(migration::migrate_continue) },
    Command { name: "migrate-start-postcopy", run: Run::Plain(|c| done(c.handler.migrate_start_postcopy())) },
    Command { name: "migrate-pause", run: Run::Plain(|c| done(c.handler.migrate_pause())) },
    Command { name: "migrate-recover", run: Run::With(migration::migrate_recover) },
    Command { name: "whimbrel-take-back", run: Run::With(decide::take_back) },
    Command { name: "whimbrel-let-go", run: Run::With(decide::let_go) },
    Command { name: "query-migrate", run: Run::Plain(|c| to_value(&c.handler.query_migrate())) },
    Command { name: "migrate-set-capabilities", run: Run::With(migration::migrate_set_capabilities) },
    Command {
        name: "query-migrate-capabilities",
        run: Run::Plain(|c| to_value(&capability_states(c.handler))),
    },
    Command { name: "migrate-set-parameters", run: Run::With(parameters::migrate_set_parameters) },
    Command {
        name: "query-migrate-parameters",
        run: Run::Plain(|c| to_value(&c.handler.query_migrate_parameters())),
    },
    Command { name: "calc-dirty-rate", run: Run::With(dirty_rate::calc_dirty_rate) },
    Command { name: "query-dirty-rate", run: Run::With(dirty_rate::query_dirty_rate) },
    Command { name: "set-vcpu-dirty-limit", run: Run::With(dirty_rate::set_vcpu_dirty_limit) },
    Command { name: "cancel-vcpu-dirty-limit", run: Run::With(dirty_rate::cancel_vcpu_dirty_limit) },
    Command {
        name: "query-vcpu-dirty-limit",
        run: Run::Plain(|c| to_value(&c.handler.query_vcpu_dirty_limit())),
    },
    Command { name: "whimbrel-predict", run: Run::With(prediction::whimbrel_predict) },
    Command {
        name: "query-whimbrel-prediction",
        run: Run::Plain(|c| to_value(&c.handler.query_whimbrel_prediction())),
    },
    Command { name: "dump-guest-memory", run: Run::With(dump::dump_guest_memory) },
    Command { name: "query-dump", run: Run::Plain(dump::query_dump) },
    Command { name: "query-dump-guest-memory-capability", run: Run::Plain(|_| Ok(dump::capability())) },
    Command { name: "query-whimbrel-report", run: Run::Plain(|c| c.handler.query_whimbrel_report()) },
    Command {
        name: "query-whimbrel-threads",
        run: Run::Plain(|c| to_value(&c.handler.query_whimbrel_threads()?)),
    },
    Command { name: "human-monitor-command", run: Run::With(human_monitor_command) },
];

/// The command that a client must send first.
const NEGOTIATE: &str = "qmp_capabilities";

/// Does what the request asks for.
pub(crate) fn dispatch(context: Context<'_>, request: Request) -> Outcome {
    let command = COMMANDS.iter().find(|command| command.name == request.execute).ok_or_else(|| {
        CommandError::command_not_found(format!("The command {} has not been found", request.execute))
    })?;
    let arguments = Arguments::new(request.arguments);
    match command.run {
        Run::With(run) => run(context, arguments),
        Run::Plain(run) => {
            arguments.finish()?;
            run(context)
        }
    }
}

/// Whether a request asks for what events tell too: whether the vCPUs run (STOP, RESUME), or how the migration stands (MIGRATION).
pub(crate) fn is_about_what_events_tell(request: &Request) -> bool {
    let line = request.arguments.get("command-line").and_then(Value::as_str);
    match request.execute.as_str() {
        "query-status" | "query-migrate" => true,
        "human-monitor-command" => line.is_some_and(|line| {
            ["status", "migrate"].iter().any(|what| line.split_whitespace().eq(["info", *what]))
        }),
        _ => false,
    }
}

/// Answers the first request of a client, which must be `qmp_capabilities`.
pub(crate) fn negotiate(request: Request) -> Outcome {
    if request.execute != NEGOTIATE {
        let desc = "Expecting capabilities negotiation with 'qmp_capabilities'";
        return Err(CommandError::command_not_found(desc));
    }
    let mut arguments = Arguments::new(request.arguments);
    let enable = arguments.optional_strings("enable")?;
    arguments.finish()?;
    match enable.first() {
        None => Ok(json!({})),
        Some(name) => Err(CommandError::generic(format!(
            "Capability '{name}' is not offered: the greeting offers none"
        ))),
    }
}

fn negotiated_already() -> CommandError {
    CommandError::command_not_found("Capabilities negotiation is already complete, command ignored")
}

fn query_commands() -> Value {
    COMMANDS.iter().map(|command| json!({ "name": command.name })).collect()
}

fn human_monitor_command(context: Context<'_>, mut arguments: Arguments) -> Outcome {
    let line = arguments.string("command-line")?;
    // QEMU lets the line be run on a chosen vCPU. Nothing that is known here depends on one.
    arguments.optional_u64("cpu-index")?;
    arguments.finish()?;
    Ok(Value::String(human::run(context, &line).replace('\n', "\r\n")))
}

/// The reply of a command that returns nothing.
fn done(outcome: Result<(), CommandError>) -> Outcome {
    outcome.map(|()| json!({}))
}

fn to_value(value: &impl Serialize) -> Outcome {
    serde_json::to_value(value)
        .map_err(|error| CommandError::generic(format!("The result cannot be encoded: {error}")))
}
