//! `human-monitor-command`: the commands of QEMU's human monitor, which are lines of text and answer in text.

mod dirty_rate;
mod dump;
mod info;
mod info_migrate;
mod prediction;

pub use info_migrate::info_migrate;

use crate::{
    CommandError,
    commands::{self, Context},
    types::{MigrationCapability, MigrationCapabilityStatus, MigrationStatus},
};

/// A command of the human monitor.
struct Command {
    name: &'static str,
    /// A second name, or empty.
    alias: &'static str,
    /// The arguments, as the help shows them.
    arguments: &'static str,
    help: &'static str,
    run: fn(Context<'_>, &[&str]) -> Result<String, Failure>,
}

/// Why a line was not done.
enum Failure {
    /// The line is not as the help says.
    Usage(&'static str),
    /// The machine did not do it.
    Refused(CommandError),
}

impl From<CommandError> for Failure {
    fn from(error: CommandError) -> Self {
        Self::Refused(error)
    }
}

type Outcome = Result<String, Failure>;

const COMMANDS: [Command; 26] = [
    Command {
        name: "announce_self",
        alias: "",
        arguments: "",
        help: "announce the machine to the network",
        run: |c, args| {
            plain(args, || c.handler.announce_self(&c.handler.query_migrate_parameters().announce))
        },
    },
    Command {
        name: "balloon",
        alias: "",
        arguments: "target",
        help: "request the guest to change its memory to this many MiB",
        run: balloon,
    },
    Command {
        name: "calc_dirty_rate",
        alias: "",
        arguments: "[-r] [-b] second [sample_pages_per_GB]",
        help: "start to measure how fast the guest writes its memory: by looking at pages, with -b by the dirty log, or with -r by vCPU, where the log is rings; see info dirty_rate",
        run: dirty_rate::calc,
    },
    Command {
        name: "cancel_vcpu_dirty_limit",
        alias: "",
        arguments: "[cpu_index]",
        help: "let a vCPU, or all of them, write memory as fast as they can",
        run: dirty_rate::cancel_limit,
    },
    Command {
        name: "cont",
        alias: "c",
        arguments: "",
        help: "let the vCPUs run",
        run: |c, args| plain(args, || c.handler.cont()),
    },
    Command {
        name: "dump-guest-memory",
        alias: "",
        arguments: "[-d] filename",
        help: "write the machine to a core file, while it stands still; -d does not wait for the end, see info dump",
        run: dump::dump,
    },
    Command { name: "help", alias: "?", arguments: "[command]", help: "show this list", run: help },
    Command {
        name: "info",
        alias: "",
        arguments: "[what]",
        help: "show information, or what there is",
        run: info,
    },
    Command {
        name: "let_go",
        alias: "",
        arguments: "-f",
        help: "of a migration with an unknown end, say that the machine is at the destination; without -f, say what that risks",
        run: |c, args| decide(c, args, commands::LET_GO_RISK, || c.handler.let_go()),
    },
    Command {
        name: "migrate",
        alias: "",
        arguments: "[-d] [-r] uri",
        help: "migrate to tcp:HOST:PORT or unix:PATH; QMP never waits for the end, `whimbrel monitor` does unless -d is given; -r goes on with a postcopy that was paused",
        run: migrate,
    },
    Command {
        name: "migrate_cancel",
        alias: "",
        arguments: "",
        help: "cancel the migration",
        run: |c, args| plain(args, || c.handler.migrate_cancel()),
    },
    Command {
        name: "migrate_continue",
        alias: "",
        arguments: "state",
        help: "go on from the state pre-switchover",
        run: migrate_continue,
    },
    Command {
        name: "migrate_incoming",
        alias: "",
        arguments: "uri",
        help: "listen for a migration on tcp:HOST:PORT or unix:PATH",
        run: migrate_incoming,
    },
    Command {
        name: "migrate_pause",
        alias: "",
        arguments: "",
        help: "break the link of a postcopy, until migrate -r",
        run: |c, args| plain(args, || c.handler.migrate_pause()),
    },
    Command {
        name: "migrate_recover",
        alias: "",
        arguments: "uri",
        help: "at the destination: expect the source of a postcopy that is paused at this address",
        run: migrate_recover,
    },
    Command {
        name: "migrate_set_capability",
        alias: "",
        arguments: "capability on|off",
        help: "switch a capability of migration",
        run: migrate_set_capability,
    },
    Command {
        name: "migrate_set_parameter",
        alias: "",
        arguments: "parameter value",
        help: "set a parameter of migration; bandwidths are in MiB/s if they have no suffix B, K, M, G or T",
        run: migrate_set_parameter,
    },
    Command {
        name: "migrate_start_postcopy",
        alias: "",
        arguments: "",
        help: "run the machine at the destination now, its memory follows",
        run: |c, args| plain(args, || c.handler.migrate_start_postcopy()),
    },
    Command {
        name: "quit",
        alias: "q",
        arguments: "",
        help: "end the virtual machine",
        run: |c, args| plain(args, || c.handler.quit()),
    },
    Command {
        name: "sendkey",
        alias: "",
        arguments: "keys [hold-ms]",
        help: "press keys, such as ctrl-alt-delete",
        run: sendkey,
    },
    Command {
        name: "set_vcpu_dirty_limit",
        alias: "",
        arguments: "dirty_rate [cpu_index]",
        help: "let a vCPU, or each of them, write no more than this many MiB of memory in a second; see info vcpu_dirty_limit",
        run: dirty_rate::set_limit,
    },
    Command {
        name: "stop",
        alias: "s",
        arguments: "",
        help: "stop the vCPUs",
        run: |c, args| plain(args, || c.handler.stop()),
    },
    Command {
        name: "system_powerdown",
        alias: "",
        arguments: "",
        help: "press the power button",
        run: |c, args| plain(args, || c.handler.system_powerdown()),
    },
    Command {
        name: "system_reset",
        alias: "",
        arguments: "",
        help: "reset the machine",
        run: |c, args| plain(args, || c.handler.system_reset()),
    },
    Command {
        name: "take_back",
        alias: "",
        arguments: "-f",
        help: "of a migration with an unknown end, say that the machine runs on here; without -f, say what that risks",
        run: |c, args| decide(c, args, commands::TAKE_BACK_RISK, || c.handler.take_back()),
    },
    Command {
        name: "whimbrel_predict",
        alias: "predict",
        arguments: "[uri|bandwidth]",
        help: "foretell a migration to there, or over a way that takes so many bytes in a second; see info prediction",
        run: prediction::predict,
    },
];

/// Runs a line, and returns what QEMU would print.
pub(crate) fn run(context: Context<'_>, line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let Some((name, arguments)) = words.split_first() else { return String::new() };
    let Some(command) = find(name) else { return format!("unknown command: '{name}'\n") };
    match (command.run)(context, arguments) {
        Ok(text) => text,
        Err(Failure::Refused(error)) => format!("Error: {}\n", error.desc),
        Err(Failure::Usage(problem)) => {
            format!("{0}: {problem}\nTry \"help {0}\" for more information\n", command.name)
        }
    }
}

fn find(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.name == name || (!name.is_empty() && command.alias == name))
}

fn help(_: Context<'_>, arguments: &[&str]) -> Outcome {
    match arguments {
        [] => Ok(COMMANDS.iter().map(line_of_help).collect()),
        ["info"] => Ok(info::help()),
        [name] => Ok(find(name).map(line_of_help).unwrap_or_default()),
        _ => Err(TOO_MANY),
    }
}

fn line_of_help(command: &Command) -> String {
    let alias = if command.alias.is_empty() { String::new() } else { format!("|{}", command.alias) };
    let arguments =
        if command.arguments.is_empty() { String::new() } else { format!(" {}", command.arguments) };
    format!("{}{alias}{arguments} -- {}\n", command.name, command.help)
}

fn info(context: Context<'_>, arguments: &[&str]) -> Outcome {
    let Some((what, arguments)) = arguments.split_first() else { return Ok(info::help()) };
    match info::find(what) {
        Some(topic) if arguments.is_empty() || (*what == "migrate" && arguments == ["-a"]) => {
            Ok(topic(context)?)
        }
        Some(_) => Err(TOO_MANY),
        None => Ok(format!("unknown command: 'info {what}'\n")),
    }
}

fn balloon(context: Context<'_>, arguments: &[&str]) -> Outcome {
    let [target] = exactly(arguments)?;
    let bytes = commands::parse_size("target", target, 1 << 20)?;
    if bytes == 0 {
        return Err(CommandError::generic("Parameter 'target' expects a size").into());
    }
    silent(context.handler.balloon(bytes))
}

fn migrate(context: Context<'_>, arguments: &[&str]) -> Outcome {
    let (options, rest): (Vec<&str>, Vec<&str>) = arguments.iter().partition(|word| word.starts_with('-'));
    if options.iter().any(|option| !["-d", "-r"].contains(option)) {
        return Err(Failure::Usage("unsupported option: only -d and -r are known"));
    }
    let [uri] = exactly(&rest)?;
    let destination = uri.parse().map_err(CommandError::from)?;
    silent(if options.contains(&"-r") {
        context.handler.migrate_resume(&destination)
    } else {
        context.handler.migrate(&destination, None)
    })
}

fn migrate_incoming(context: Context<'_>, arguments: &[&str]) -> Outcome {
    let [uri] = exactly(arguments)?;
    silent(context.handler.migrate_incoming(&uri.parse().map_err(CommandError::from)?, true))
}

fn migrate_recover(context: Context<'_>, arguments: &[&str]) -> Outcome {
    let [uri] = exactly(arguments)?;
    silent(context.handler.migrate_recover(&uri.parse().map_err(CommandError::from)?))
}

fn decide(
    context: Context<'_>,
    arguments: &[&str],
    risk: &str,
    decide: impl FnOnce() -> Result<(), CommandError>,
) -> Outcome {
    match arguments {
        ["-f"] => silent(decide()),
        [] => Err(context
            .handler
            .may_decide()
            .err()
            .unwrap_or_else(|| CommandError::generic(format!("{risk}. If you are, add -f")))
            .into()),
        _ => Err(Failure::Usage("only -f is known")),
    }
}

fn migrate_continue(context: Context<'_>, arguments: &[&str]) -> Outcome {
    match exactly(arguments)? {
        ["pre-switchover"] => silent(context.handler.migrate_continue(MigrationStatus::PreSwitchover)),
        [state] => Err(CommandError::generic(format!("invalid parameter value: {state}")).into()),
    }
}

fn migrate_set_capability(context: Context<'_>, arguments: &[&str]) -> Outcome {
    let [name, state] = exactly(arguments)?;
    let capability = MigrationCapability::from_name(name)
        .ok_or_else(|| CommandError::generic(format!("invalid parameter value: {name}")))?;
    let state = match state {
        "on" => true,
        "off" => false,
        _ => return Err(Failure::Usage("state must be on or off")),
    };
    silent(commands::set_capabilities(context, &[MigrationCapabilityStatus { capability, state }]))
}

fn migrate_set_parameter(context: Context<'_>, arguments: &[&str]) -> Outcome {
    let [name, value] = exactly(arguments)?;
    silent(context.handler.migrate_set_parameters(&commands::parse_parameter(name, value)?))
}

fn sendkey(context: Context<'_>, arguments: &[&str]) -> Outcome {
    let (keys, hold) = match arguments {
        [keys] => (keys, None),
        [keys, hold] => (keys, Some(*hold)),
        [] => return Err(TOO_FEW),
        _ => return Err(TOO_MANY),
    };
    let (keys, hold) = commands::parse_combination(keys, hold)?;
    silent(context.handler.send_key(&keys, hold))
}

const TOO_FEW: Failure = Failure::Usage("an argument is missing");
const TOO_MANY: Failure = Failure::Usage("extraneous characters at the end of line");

fn exactly<'a, const N: usize>(arguments: &[&'a str]) -> Result<[&'a str; N], Failure> {
    arguments.try_into().map_err(|_| if arguments.len() < N { TOO_FEW } else { TOO_MANY })
}

/// A command that has no arguments and says nothing.
fn plain(arguments: &[&str], run: impl FnOnce() -> Result<(), CommandError>) -> Outcome {
    let [] = exactly(arguments)?;
    silent(run())
}

fn silent(outcome: Result<(), CommandError>) -> Outcome {
    Ok(outcome.map(|()| String::new())?)
}
