//! `whimbrel monitor`: a prompt on a machine's monitor, or one command.

mod completion;
mod line;
mod prompt;
mod vocabulary;
mod wait;

use std::{error::Error, io, path::PathBuf, process::ExitCode, time::Duration};

use ::monitor::{Client, ClientError};
use line::Input;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use vocabulary::Vocabulary;

/// Talk to a machine's monitor: a prompt, or one command.
///
/// A command is a line of the human monitor (`info migrate`, `stop`, `migrate tcp:host:port`), or the name of a QMP command
/// with its arguments as name=value (`migrate-set-parameters downtime-limit=100`), or QMP as JSON. Without a command there
/// is a prompt with history and completion; `help` lists what it takes.
///
/// As in QEMU, `migrate URI` waits for the end, and fails if the machine has not moved; `migrate -d URI` does not wait. Ctrl-C
/// ends the waiting, and the migration goes on.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The monitor's unix socket
    socket: PathBuf,

    /// Print the reply as QMP has it, on one line
    #[arg(long)]
    json: bool,

    /// Seconds that the monitor may take for an answer
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,

    /// The command; without it there is a prompt
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Success, unless the command, or the last thing done at the prompt, failed.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let client = Client::connect(&arguments.socket, Duration::from_secs(arguments.timeout))?;
    let mut session = Session::new(client, arguments.json)?;
    session.at_prompt = arguments.command.is_empty();
    if arguments.command.is_empty() {
        return prompt::run(session);
    }
    // One argument may be a whole line, quotes and all, as it would be typed at the prompt.
    let answer = match arguments.command.as_slice() {
        [line] => session.line(line)?,
        words => session.words(words)?,
    };
    answer.print()?;
    Ok(if answer.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A client, and how its answers are shown.
struct Session {
    client: Client,
    vocabulary: Vocabulary,
    json: bool,
    at_prompt: bool,
}

/// What a command had to say.
struct Answer {
    text: String,
    failed: bool,
}

impl Session {
    fn new(mut client: Client, json: bool) -> Result<Self, ClientError> {
        let vocabulary = Vocabulary::learn(&mut client)?;
        Ok(Self { client, vocabulary, json, at_prompt: false })
    }

    /// Does a line as it is typed. An error is one of the connection; a command that fails is an answer.
    fn line(&mut self, line: &str) -> Result<Answer, ClientError> {
        let error = if line.trim_start().starts_with('{') {
            // What is not whole would leave the monitor waiting for the rest, and us for a reply.
            match serde_json::from_str::<IgnoredAny>(line) {
                Ok(_) => return self.execute(Input::Json(line.to_owned())),
                Err(error) => error.to_string(),
            }
        } else {
            match line::split(line) {
                Ok(words) => return self.words(&words),
                Err(error) => error.to_string(),
            }
        };
        Ok(Answer { text: format!("Error: {error}\n"), failed: true })
    }

    /// Does a command that is split already.
    fn words(&mut self, words: &[String]) -> Result<Answer, ClientError> {
        match line::parse(words, &self.vocabulary, self.json) {
            Some(input) => self.execute(input),
            None => Ok(Answer { text: String::new(), failed: false }),
        }
    }

    fn execute(&mut self, input: Input) -> Result<Answer, ClientError> {
        let (outcome, human) = match input {
            Input::Json(text) => (self.client.raw(format!("{text}\n").as_bytes())?.into_outcome(), false),
            Input::Qmp { command, arguments } => (self.command(&command, arguments.into())?, false),
            Input::Human(line) => {
                let words: Vec<_> = line.split_whitespace().collect();
                // From before it starts: Ctrl-C must not find a moment in which it would end this in silence.
                let due = wait::due(&words);
                let interrupt = if due.is_some() { Some(wait::Interrupt::take()?) } else { None };
                let started = self.command("human-monitor-command", json!({ "command-line": line }))?;
                let outcome = match due.zip(interrupt) {
                    Some((due, interrupt)) if !is_failure(&started, true) => self.wait(due, &interrupt)?,
                    _ => started,
                };
                (outcome, true)
            }
        };
        let failed = is_failure(&outcome, human);
        let text = match outcome {
            Ok(value) if self.json => format!("{}\n", json!({ "return": value })),
            Err(error) if self.json => format!("{}\n", json!({ "error": error })),
            Ok(value) => show(value),
            Err(error) => format!("Error: {}\n", error.desc),
        };
        Ok(Answer { text, failed })
    }

    /// QEMU's human monitor comes back from `migrate` when it is over.
    fn wait(
        &mut self,
        due: wait::Due,
        interrupt: &wait::Interrupt,
    ) -> Result<Result<Value, ::monitor::CommandError>, ClientError> {
        let (text, well) = match due {
            wait::Due::Migration => {
                wait::verdict(&wait::for_migration(&mut self.client, interrupt, self.at_prompt)?)
            }
            wait::Due::Prediction => wait::for_prediction(&mut self.client, interrupt)?,
        };
        Ok(if well { Ok(format!("{text}\r\n").into()) } else { Err(::monitor::CommandError::generic(text)) })
    }

    /// A refusal is an outcome like any other; errors are those of the connection.
    fn command(
        &mut self,
        command: &str,
        arguments: Value,
    ) -> Result<Result<Value, ::monitor::CommandError>, ClientError> {
        match self.client.execute(command, arguments) {
            Ok(value) => Ok(Ok(value)),
            Err(ClientError::Command { source, .. }) => Ok(Err(source)),
            Err(error) => Err(error),
        }
    }
}

impl Answer {
    /// Refusals go to the standard error, so that a script does not take them for a result.
    fn print(&self) -> io::Result<()> {
        if self.failed && !self.text.starts_with('{') {
            output::complain!("{}", self.text.trim_end_matches('\n'));
            return Ok(());
        }
        output::show(&self.text)
    }
}

fn is_failure(outcome: &Result<Value, ::monitor::CommandError>, human: bool) -> bool {
    match outcome {
        Ok(Value::String(text)) if human => is_complaint(text),
        Ok(_) => false,
        Err(_) => true,
    }
}

/// The human monitor has no other sign of failure than its words.
fn is_complaint(text: &str) -> bool {
    text.starts_with("Error: ") || text.starts_with("unknown command: ") || text.contains("\nTry \"help ")
}

/// A command's result for people: a text as it is, nothing as nothing, the rest as indented JSON.
fn show(value: Value) -> String {
    match value {
        Value::String(text) => text.replace("\r\n", "\n"),
        Value::Object(members) if members.is_empty() => String::new(),
        value => format!("{value:#}\n"),
    }
}
