use std::{
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use ::monitor::{
    Client, ClientError,
    types::{MigrationInfo, MigrationStatus},
};
use console::Term;
use serde_json::Value;
use signal_hook::{SigId, consts::SIGINT, flag, low_level};

/// Between two looks at a migration.
const LOOK: Duration = Duration::from_millis(100);

/// How waiting for a migration came to its end.
pub(super) enum Waited {
    /// It is over.
    Over(Box<MigrationInfo>),
    /// It waits for the user.
    AwaitsUser,
    /// The user does not want to wait any longer.
    Interrupted,
}

/// What a command has begun, and what is to be waited for before there is an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Migration,
    Prediction,
}

/// What these words begin, if there is something to wait for.
pub(super) fn due(words: &[&str]) -> Option<Due> {
    match words {
        ["whimbrel_predict" | "predict", ..] => Some(Due::Prediction),
        words => is_migration(words).then_some(Due::Migration),
    }
}

/// Whether these words start a migration whose end is to be waited for: those of QEMU's human monitor, without `-d`.
fn is_migration(words: &[&str]) -> bool {
    matches!(words, ["migrate", rest @ ..] if !rest.is_empty() && rest.iter().all(|word| !word.starts_with('-')))
}

/// Waits for the end of the migration under way, and shows at a terminal how it goes. Ctrl-C ends the waiting, not the migration.
/// If `at_prompt`, so does a migration that waits for a command.
pub(super) fn for_migration(
    client: &mut Client,
    interrupt: &Interrupt,
    at_prompt: bool,
) -> Result<Waited, ClientError> {
    let mut screen = Screen::new();
    loop {
        let info = client.query_migrate()?;
        match info.status {
            None => {}
            Some(status) if status.is_final() => return Ok(Waited::Over(Box::new(info))),
            Some(MigrationStatus::PreSwitchover) if at_prompt => return Ok(Waited::AwaitsUser),
            Some(_) => {}
        }
        screen.show(&info)?;
        if interrupt.came() {
            return Ok(Waited::Interrupted);
        }
        thread::sleep(LOOK);
    }
}

/// Waits until a prediction that was asked for is there. Returns what people are told, and whether it came to something.
pub(super) fn for_prediction(
    client: &mut Client,
    interrupt: &Interrupt,
) -> Result<(String, bool), ClientError> {
    loop {
        let info = client.execute("query-whimbrel-prediction", Value::Null)?;
        match info["status"].as_str() {
            Some("measuring") if !interrupt.came() => thread::sleep(LOOK),
            Some("measuring") => return Ok(("`info prediction` says what is foretold".into(), true)),
            Some("predicted") => return Ok((client.human("info prediction")?, true)),
            _ => {
                let why = info["error-desc"].as_str().unwrap_or("the machine went away meanwhile");
                return Ok((format!("It came to nothing. {why}"), false));
            }
        }
    }
}

/// Ctrl-C, as long as this is there. Before and afterwards it does what it always does.
pub(super) struct Interrupt {
    came: Arc<AtomicBool>,
    id: SigId,
    elsewhere: &'static Arc<AtomicBool>,
}

impl Interrupt {
    pub(super) fn take() -> io::Result<Self> {
        let elsewhere = elsewhere()?;
        let came = Arc::new(AtomicBool::new(false));
        let id = flag::register(SIGINT, came.clone())?;
        // In this order, and in the other one at the end: between the two it has its usual effect, and never none.
        elsewhere.store(false, Ordering::Relaxed);
        Ok(Self { came, id, elsewhere })
    }

    fn came(&self) -> bool {
        self.came.load(Ordering::Relaxed)
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        self.elsewhere.store(true, Ordering::Relaxed);
        low_level::unregister(self.id);
    }
}

/// Whether Ctrl-C has its usual effect. A signal that was taken once is not given back to the kernel (`signal_hook::low_level::unregister`).
fn elsewhere() -> io::Result<&'static Arc<AtomicBool>> {
    static ELSEWHERE: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    if let Some(known) = ELSEWHERE.get() {
        return Ok(known);
    }
    let usual = Arc::new(AtomicBool::new(true));
    flag::register_conditional_default(SIGINT, usual.clone())?;
    Ok(ELSEWHERE.get_or_init(|| usual))
}

/// One line on the standard error, if that is a terminal, which is written over and taken away in the end; and advice, wherever it goes.
struct Screen {
    terminal: Option<Term>,
    /// What was the state when advice was last told: it may be told with other figures every time.
    advised: Option<MigrationStatus>,
}

impl Screen {
    fn new() -> Self {
        Self { terminal: Some(Term::stderr()).filter(Term::is_term), advised: None }
    }

    fn show(&mut self, info: &MigrationInfo) -> io::Result<()> {
        let advice = info.whimbrel.as_ref().and_then(|own| own.advice.as_ref());
        let news = advice.filter(|_| self.advised != info.status);
        if news.is_some() {
            self.advised = info.status;
        }
        let Some(terminal) = &self.terminal else {
            news.iter().for_each(|advice| output::complain!("{advice}"));
            return Ok(());
        };
        terminal.clear_line()?;
        if let Some(advice) = news {
            terminal.write_line(advice)?;
        }
        let line = progress(info);
        let width = usize::from(terminal.size().1).saturating_sub(1);
        terminal.write_str(&console::truncate_str(&line, width, "…"))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Some(terminal) = &self.terminal {
            // Nobody looks any more.
            let _ = terminal.clear_line();
        }
    }
}

/// How a migration goes, on one line.
fn progress(info: &MigrationInfo) -> String {
    let mut parts = vec![info.status.map_or_else(String::new, |status| status.to_string())];
    if let Some(own) = &info.whimbrel {
        parts.extend(own.percentage.map(|percentage| format!("{percentage:.1} %")));
    }
    if let Some(ram) = &info.ram {
        parts.push(format!("round {}", ram.dirty_sync_count));
        parts.push(format!("{} MB sent, {} MB left", ram.transferred / 1_000_000, ram.remaining / 1_000_000));
        parts.push(format!("{:.0} Mbit/s", ram.mbps));
    }
    if let Some(own) = &info.whimbrel {
        parts.extend(own.eta_ms.map(|ms| format!("{:.1} s to go", ms as f64 / 1e3)));
        parts.extend(own.eta_note.clone());
    }
    parts.retain(|part| !part.is_empty());
    parts.join(", ")
}

/// What is said in the end, and whether the machine has moved.
pub(super) fn verdict(waited: &Waited) -> (String, bool) {
    match waited {
        Waited::Over(info) => match info.status {
            Some(MigrationStatus::Completed) => {
                let mut text = String::from("Migration completed");
                if let Some(ms) = info.total_time {
                    text += &format!(" in {:.1} s", ms as f64 / 1e3);
                }
                if let Some(ms) = info.downtime {
                    text += &format!(", downtime {ms} ms");
                }
                (text, true)
            }
            Some(MigrationStatus::Cancelled) => {
                ("The migration was cancelled: the machine stays here".into(), false)
            }
            _ => {
                let reason = info.error_desc.as_deref().unwrap_or("the monitor does not say why");
                (format!("The migration failed: {reason}"), false)
            }
        },
        Waited::AwaitsUser => (
            "The migration waits: `migrate_continue pre-switchover` lets it go on, `migrate_cancel` ends it"
                .into(),
            true,
        ),
        Waited::Interrupted => {
            ("The migration goes on: `info migrate` shows how, `migrate_cancel` ends it".into(), false)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_migration_that_is_not_detached_is_waited_for() {
        assert_eq!(due(&["migrate", "tcp:a:1"]), Some(Due::Migration));
        assert_eq!(due(&["whimbrel_predict", "1G"]), Some(Due::Prediction));
        assert_eq!(due(&["predict", "tcp:host-b:4444"]), Some(Due::Prediction));
        for words in [
            &["migrate", "-d", "tcp:a:1"][..],
            &["migrate", "tcp:a:1", "-d"],
            &["migrate"],
            &["info", "migrate"],
        ] {
            assert_eq!(due(words), None, "{words:?}");
        }
    }
}
