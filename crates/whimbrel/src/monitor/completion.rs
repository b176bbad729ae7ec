use std::borrow::Cow;

use rustyline::{
    Context, Helper,
    completion::{Completer, Pair},
    highlight::Highlighter,
    hint::{Hinter, HistoryHinter},
    validate::Validator,
};

use super::vocabulary::Vocabulary;

/// What helps at the prompt: completion from the monitor's words, and hints from the history.
pub(super) struct Assistant {
    vocabulary: Vocabulary,
    history: HistoryHinter,
}

impl Assistant {
    pub(super) fn new(vocabulary: Vocabulary) -> Self {
        Self { vocabulary, history: HistoryHinter::new() }
    }

    /// Where the word at the end of `line` begins, and what it may become.
    fn candidates(&self, line: &str) -> (usize, Vec<String>) {
        let word_start = line.rfind(char::is_whitespace).map_or(0, |blank| blank + 1);
        let before: Vec<&str> = line[..word_start].split_whitespace().collect();
        // Keys are joined by dashes: each is a word of its own.
        let start = match before.as_slice() {
            ["sendkey"] => line[word_start..].rfind('-').map_or(word_start, |dash| word_start + dash + 1),
            _ => word_start,
        };
        let mut names = self.vocabulary.candidates(&before);
        names.retain(|name| name.starts_with(&line[start..]));
        (start, names)
    }
}

impl Completer for Assistant {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let (start, names) = self.candidates(&line[..position]);
        let pair = |name: String| {
            // A word that goes on (`uri=`, `tcp:`, one key of several) gets no blank.
            let goes_on = name.ends_with(['=', ':', '"']) || line.starts_with("sendkey ");
            let replacement = if goes_on { name.clone() } else { format!("{name} ") };
            Pair { display: name, replacement }
        };
        Ok((start, names.into_iter().map(pair).collect()))
    }
}

impl Hinter for Assistant {
    type Hint = String;

    fn hint(&self, line: &str, position: usize, context: &Context<'_>) -> Option<String> {
        self.history.hint(line, position, context)
    }
}

impl Highlighter for Assistant {
    fn highlight_hint<'h>(&self, hint: &'h str) -> Cow<'h, str> {
        // Faint (ECMA-48 SGR 2), and back to normal.
        Cow::Owned(format!("\x1b[2m{hint}\x1b[0m"))
    }
}

impl Validator for Assistant {}

impl Helper for Assistant {}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(line: &str) -> (usize, Vec<String>) {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let vocabulary = Vocabulary {
            human: list(&["info", "migrate", "migrate_set_capability", "sendkey"]),
            qmp: list(&["migrate", "migrate-incoming"]),
            topics: list(&["migrate", "status"]),
            parameters: list(&["downtime-limit", "max-bandwidth"]),
        };
        Assistant::new(vocabulary).candidates(line)
    }

    #[test]
    fn a_first_word_becomes_a_command_of_either_monitor() {
        let names = ["migrate", "migrate-incoming", "migrate_set_capability"].map(str::to_owned);
        assert_eq!(complete("mig"), (0, names.to_vec()));
        assert_eq!(complete("zork"), (0, vec![]));
    }

    #[test]
    fn arguments_are_completed_by_what_stands_before_them() {
        assert_eq!(complete("info st"), (5, vec!["status".to_owned()]));
        assert_eq!(
            complete("migrate_set_capability pause"),
            (23, vec!["pause-before-switchover".to_owned()])
        );
        assert_eq!(
            complete("migrate_set_capability events o"),
            (30, vec!["on".to_owned(), "off".to_owned()])
        );
        assert_eq!(complete("migrate-incoming u"), (17, vec!["uri=".to_owned()]));
        assert_eq!(complete("sendkey ctrl-de"), (13, vec!["delete".to_owned()]));
    }
}
