use std::{
    error::Error,
    io::{self, IsTerminal},
    path::PathBuf,
    process::ExitCode,
    thread,
    time::Duration,
};

use ::monitor::{
    ClientError, EventQueue,
    protocol::{Event, Timestamp},
};
use rustyline::{
    CompletionType, Config, Editor, ExternalPrinter, error::ReadlineError, history::FileHistory,
};
use serde_json::Value;

use super::{Session, completion::Assistant};

type Prompt = Editor<Assistant, FileHistory>;

/// Lines of history that are kept.
const HISTORY_LINES: usize = 2000;

/// What the prompt adds to the monitor's own help.
const HELP: &str = "
Beside these, the prompt takes:
NAME [argument=value ...] -- a QMP command, such as query-migrate
{ ... } -- QMP as it is
exit (or Ctrl-D) -- leave the prompt; the machine runs on
Tab completes, Up and Ctrl-R search the history. Events are shown as they come.
";

/// Reads lines and does them until the user leaves or the monitor closes.
pub(super) fn run(mut session: Session) -> Result<ExitCode, Box<dyn Error>> {
    let interactive = io::stdin().is_terminal() && io::stdout().is_terminal();
    let mut editor = editor(&session)?;
    let history = history_file();
    if let Some(path) = &history {
        // There is none the first time.
        let _ = editor.load_history(path);
    }
    if interactive {
        greet(&session);
        show_events(&mut editor, session.client.events())?;
    }
    let name = machine_name(&mut session)?;
    let outcome = converse(&mut session, &mut editor, &name, interactive);
    if interactive && let Some(path) = &history {
        save(&mut editor, path);
    }
    match outcome {
        Err(ClientError::Closed) => {
            output::complain!("The monitor closed the connection: the machine has ended.");
            Ok(ExitCode::FAILURE)
        }
        outcome => Ok(outcome?),
    }
}

/// The conversation itself. Typed at a terminal, a command that fails is not a failure of the tool; from a file it is.
fn converse(
    session: &mut Session,
    editor: &mut Prompt,
    name: &str,
    interactive: bool,
) -> Result<ExitCode, ClientError> {
    let plain = format!("{name}> ");
    // Bold (ECMA-48 SGR 1), and back to normal.
    let prompt = (plain.clone(), format!("\x1b[1m{plain}\x1b[0m"));
    let mut all_well = true;
    loop {
        let line = match editor.readline(&prompt) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(io::Error::other(error).into()),
        };
        // Fails only if the history has no room, and then it forgets.
        let _ = editor.add_history_entry(line.trim_end());
        let words: Vec<&str> = line.split_whitespace().collect();
        let ends_machine = matches!(words.as_slice(), ["quit" | "q"]);
        match words.as_slice() {
            ["exit"] => break,
            _ if ends_machine && interactive && !confirmed(editor) => continue,
            _ => {}
        }
        let answer = match session.line(&line) {
            Err(ClientError::Closed) if ends_machine => break,
            answer => answer?,
        };
        all_well &= !answer.failed;
        while !interactive && let Some(event) = session.client.events().next(Duration::ZERO) {
            output::show(&describe(&event))?;
        }
        answer.print()?;
        if matches!(words.as_slice(), ["help" | "?"]) {
            output::show(HELP)?;
        }
        if ends_machine && !answer.failed {
            break;
        }
    }
    Ok(if all_well || interactive { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `quit` is what one types to leave a prompt, and here it ends a machine.
fn confirmed(editor: &mut Prompt) -> bool {
    let answer =
        editor.readline("This ends the virtual machine (`exit` leaves the prompt only). End it? [y/N] ");
    answer.is_ok_and(|answer| matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn editor(session: &Session) -> rustyline::Result<Prompt> {
    let config = Config::builder()
        .max_history_size(HISTORY_LINES)?
        .history_ignore_dups(true)?
        .history_ignore_space(true)
        .completion_type(CompletionType::List)
        .build();
    let mut editor = Editor::with_config(config)?;
    editor.set_helper(Some(Assistant::new(session.vocabulary.clone())));
    Ok(editor)
}

fn greet(session: &Session) {
    output::say!("{} — help lists the commands, Ctrl-D leaves", session.client.version().package);
}

/// The prompt shows which machine it is on.
fn machine_name(session: &mut Session) -> Result<String, ClientError> {
    let name = session.client.execute("query-name", Value::Null)?;
    let name = name.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
    Ok(name.unwrap_or("whimbrel").chars().filter(|c| !c.is_control()).collect())
}

/// At a terminal, starts a thread that shows events above the prompt until the connection is closed. Elsewhere there is
/// none, and events are shown after the command during which they came, so that the same input gives the same output.
fn show_events(editor: &mut Prompt, events: EventQueue) -> io::Result<()> {
    let Ok(mut printer) = editor.create_external_printer() else { return Ok(()) };
    // Fails when the prompt is gone; nobody looks then.
    let mut show = move |text: String| drop(printer.print(text));
    thread::Builder::new().name("events".to_owned()).spawn(move || {
        while !events.is_closed() {
            if let Some(event) = events.next(Duration::from_secs(1)) {
                show(describe(&event));
            }
        }
        show("The monitor closed the connection.\n".to_owned());
    })?;
    Ok(())
}

/// An event on one line: when, its name, and what it says.
fn describe(event: &Event) -> String {
    let data = event.data.as_ref().and_then(Value::as_object).into_iter().flatten();
    let data = data.map(|(name, value)| match value {
        Value::String(text) => format!(" {name}={text}"),
        value => format!(" {name}={value}"),
    });
    format!("[{}] {}{}\n", time_of_day(event.timestamp), event.event, data.collect::<String>())
}

/// Hours, minutes and seconds in UTC, as in the logs of the machine.
fn time_of_day(timestamp: Timestamp) -> String {
    let seconds = timestamp.seconds.rem_euclid(24 * 60 * 60);
    let milliseconds = timestamp.microseconds / 1000;
    format!("{:02}:{:02}:{:02}.{milliseconds:03}Z", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// `$XDG_STATE_HOME/whimbrel/monitor-history`, by default under `~/.local/state` (XDG Base Directory Specification).
fn history_file() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(state.join("whimbrel/monitor-history"))
}

/// A history that cannot be kept is worth a word, and no more.
fn save(editor: &mut Prompt, path: &std::path::Path) {
    let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    if let Err(error) = folder.map_err(ReadlineError::from).and_then(|()| editor.save_history(path)) {
        output::complain!("The history could not be saved to {}: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_one_line_with_its_time_and_data() {
        let event = Event {
            timestamp: Timestamp { seconds: 1_795_423_790, microseconds: 482_692 },
            event: "MIGRATION_PASS".to_owned(),
            data: Some(json!({ "pass": 2 })),
        };
        assert_eq!(describe(&event), "[08:49:50.482Z] MIGRATION_PASS pass=2\n");
        let event =
            Event { event: "MIGRATION".to_owned(), data: Some(json!({ "status": "active" })), ..event };
        assert_eq!(describe(&event), "[08:49:50.482Z] MIGRATION status=active\n");
    }
}
