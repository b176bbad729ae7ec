use serde_json::{Map, Value};

use super::vocabulary::Vocabulary;

/// What a line asks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Input {
    /// QMP as it is.
    Json(String),
    /// A QMP command.
    Qmp { command: String, arguments: Map<String, Value> },
    /// A line of the human monitor.
    Human(String),
}

/// A line that cannot be split into words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("A quote is left open: close it, or put a backslash before it")]
pub(super) struct OpenQuote;

/// What the words ask for; `None` if there are none.
///
/// Some names are both QMP's and the human monitor's (`stop`, `migrate`). They are taken for the human monitor's, unless
/// their arguments are `name=value`, or `prefer_qmp`.
pub(super) fn parse(words: &[String], vocabulary: &Vocabulary, prefer_qmp: bool) -> Option<Input> {
    let (command, rest) = words.split_first()?;
    let in_both = vocabulary.is_human(command);
    let arguments: Option<Map<String, Value>> = rest.iter().map(|word| argument(word)).collect();
    match arguments {
        Some(arguments) if vocabulary.is_qmp(command) && (!in_both || prefer_qmp || !rest.is_empty()) => {
            Some(Input::Qmp { command: command.clone(), arguments })
        }
        _ => Some(Input::Human(words.join(" "))),
    }
}

/// `name=value`, where the value is JSON or else a text.
fn argument(word: &str) -> Option<(String, Value)> {
    let (name, value) = word.split_once('=')?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
    (!name.is_empty()).then(|| (name.to_owned(), value))
}

/// Splits at blanks. Blanks between quotes of either kind are kept, and so is what follows a backslash. Quotes stand for
/// themselves within `[` or `{`, so that an argument can be JSON without further quoting.
pub(super) fn split(line: &str) -> Result<Vec<String>, OpenQuote> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut json_depth = 0u32;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' if json_depth == 0 => word.get_or_insert_default().extend(characters.next()),
            _ if quote == Some(character) => {
                quote = None;
                if json_depth > 0 {
                    word.get_or_insert_default().push(character);
                }
            }
            '"' | '\'' if quote.is_none() => {
                quote = Some(character);
                let word = word.get_or_insert_default();
                if json_depth > 0 {
                    word.push(character);
                }
            }
            _ if character.is_whitespace() && quote.is_none() && json_depth == 0 => words.extend(word.take()),
            _ => {
                if quote.is_none() {
                    match character {
                        '[' | '{' => json_depth += 1,
                        ']' | '}' => json_depth = json_depth.saturating_sub(1),
                        _ => {}
                    }
                }
                word.get_or_insert_default().push(character);
            }
        }
    }
    words.extend(word);
    if quote.is_some() { Err(OpenQuote) } else { Ok(words) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn vocabulary() -> Vocabulary {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Vocabulary {
            human: list(&["stop", "info", "migrate"]),
            qmp: list(&["stop", "migrate", "query-status", "send-key"]),
            ..Vocabulary::default()
        }
    }

    fn parsed(line: &str, prefer_qmp: bool) -> Option<Input> {
        parse(&split(line).unwrap(), &vocabulary(), prefer_qmp)
    }

    fn qmp(command: &str, arguments: &Value) -> Option<Input> {
        let arguments = arguments.as_object().unwrap().clone();
        Some(Input::Qmp { command: command.to_owned(), arguments })
    }

    fn human(line: &str) -> Option<Input> {
        Some(Input::Human(line.to_owned()))
    }

    #[test]
    fn what_only_one_monitor_knows_goes_to_it() {
        assert_eq!(parsed("query-status", false), qmp("query-status", &json!({})));
        assert_eq!(parsed("  info   migrate ", false), human("info migrate"));
        assert_eq!(parsed("zork", false), human("zork"));
        assert_eq!(parsed("   ", false), None);
    }

    #[test]
    fn what_both_know_goes_by_its_arguments() {
        assert_eq!(parsed("stop", false), human("stop"));
        assert_eq!(parsed("stop", true), qmp("stop", &json!({})));
        assert_eq!(parsed("migrate tcp:a:1", true), human("migrate tcp:a:1"));
        assert_eq!(parsed("migrate uri=tcp:a:1", false), qmp("migrate", &json!({ "uri": "tcp:a:1" })));
    }

    #[test]
    fn values_are_json_or_else_texts() {
        let line = r#"send-key hold-time=5 a=true b="x y" c='1 2' keys=[{"type": "qcode", "data": "a b"}]"#;
        let keys = json!([{ "type": "qcode", "data": "a b" }]);
        let expected = json!({ "hold-time": 5, "a": true, "b": "x y", "c": "1 2", "keys": keys });
        assert_eq!(parsed(line, false), qmp("send-key", &expected));
    }

    #[test]
    fn an_open_quote_is_an_error_and_an_escaped_one_is_not() {
        assert_eq!(split("info \"migrate"), Err(OpenQuote));
        assert_eq!(split(r#"a\"b "" c"#).unwrap(), ["a\"b", "", "c"]);
    }
}
