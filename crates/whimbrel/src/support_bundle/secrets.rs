//! What must not leave a host: tokens that there are, keys, and whatever is called a secret.

use std::{fs, path::Path};

/// What stands where something was left out.
const LEFT_OUT: &str = "[left out]";
/// Words after which something stands that nobody else should read, as in `token=…`, `"password": "…"`, `Authorization: Bearer …`.
const WORDS: &[&str] =
    &["password", "passwd", "passphrase", "secret", "token", "bearer", "apikey", "api_key", "authorization"];
/// The shortest text that is looked for as a whole. What is shorter is found everywhere.
const SHORTEST: usize = 16;
const KEY_BEGIN: &str = "-----BEGIN ";
const KEY_END: &str = "-----END ";

/// Secrets that are known.
#[derive(Default)]
pub(super) struct Secrets {
    known: Vec<String>,
}

impl Secrets {
    /// Takes in what a fleet's directory has: its tokens, and those in its kubeconfigs.
    pub(super) fn learn(&mut self, directory: &Path) {
        let files =
            |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        for token in files(&directory.join("tokens")) {
            self.known.extend(fs::read_to_string(token).ok().map(|text| text.trim().to_owned()));
        }
        for path in
            files(directory).chain(files(directory).flat_map(|inner| files(&inner).collect::<Vec<_>>()))
        {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name != "ticket" && !name.starts_with("kubeconfig") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap_or_default();
            let values = text.split(['"', '\'', ' ', '\n']).filter(|word| word.len() >= 2 * SHORTEST);
            self.known.extend(values.map(str::to_owned));
        }
        self.known.retain(|secret| secret.len() >= SHORTEST);
    }

    /// A text without them.
    pub(super) fn clean(&self, text: &str) -> String {
        let mut text = without_keys(text);
        for secret in &self.known {
            if text.contains(secret) {
                text = text.replace(secret, LEFT_OUT);
            }
        }
        let lines = text.split_inclusive('\n').map(without_values);
        lines.collect()
    }
}

/// A text without what is between the marks of a private key. A key that has no end goes on to the end.
fn without_keys(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(begin) = rest.find(KEY_BEGIN) {
        let (before, key) = rest.split_at(begin);
        kept.push_str(before);
        let label = &key[KEY_BEGIN.len()..];
        let is_private = label.split("-----").next().is_some_and(|label| label.contains("PRIVATE KEY"));
        let end = key.find(KEY_END).map_or(key.len(), |end| {
            let after = end + KEY_END.len();
            key[after..].find("-----").map_or(key.len(), |tail| after + tail + 5)
        });
        kept.push_str(if is_private { LEFT_OUT } else { &key[..end] });
        rest = &key[end..];
    }
    kept.push_str(rest);
    kept
}

/// A line without the values of words that speak of secrets.
fn without_values(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    let mut kept = String::with_capacity(line.len());
    let mut at = 0;
    while let Some(end) = next_word(&lower, at) {
        let value = begin_of_value(&lower, end);
        match value.map(|(begin, quote)| (begin, end_of_value(&lower, begin, quote))) {
            Some((begin, end)) if end > begin => {
                kept.push_str(&line[at..begin]);
                kept.push_str(LEFT_OUT);
                at = end;
            }
            _ => {
                kept.push_str(&line[at..end]);
                at = end;
            }
        }
    }
    kept.push_str(&line[at..]);
    kept
}

/// Where the next word that speaks of a secret has ended.
fn next_word(line: &str, from: usize) -> Option<usize> {
    let found = WORDS
        .iter()
        .filter_map(|word| line[from..].find(word).map(|begin| (begin, from + begin + word.len())));
    found.min().map(|(_, end)| end)
}

/// What a value is in: its quote, and how many backslashes are before that. JSON within JSON has one, and more where it is nested more deeply.
type Quoted = Option<(char, usize)>;

/// Where the value begins that belongs to the word before, and what it is in.
fn begin_of_value(line: &str, end: usize) -> Option<(usize, Quoted)> {
    let is_bearer = line[..end].ends_with("bearer");
    let is_option = is_option(line, end);
    let rest =
        line[end..].trim_start_matches(|letter: char| letter.is_alphanumeric() || "_-\"'\\".contains(letter));
    let rest = rest.trim_start();
    let rest = match rest.strip_prefix([':', '=']) {
        Some(value) => value.trim_start(),
        // As in `--token abc`, or `"--token", "abc"`.
        None if is_option => rest.strip_prefix(',').unwrap_or(rest).trim_start(),
        None if is_bearer => rest,
        None => return None,
    };
    // A kind of authorization, not its value.
    let rest = rest.strip_prefix("bearer ").or_else(|| rest.strip_prefix("basic ")).unwrap_or(rest);
    let bare = rest.trim_start_matches('\\');
    let escapes = rest.len() - bare.len();
    let quote = bare.chars().next().filter(|letter| "\"'".contains(*letter));
    let before = quote.map_or(0, |quote| escapes + quote.len_utf8());
    Some((line.len() - rest.len() + before, quote.map(|quote| (quote, escapes))))
}

/// Whether the word that ends there is an option of a command line, whose value may come after a space.
fn is_option(line: &str, end: usize) -> bool {
    let mut words = line[..end].rsplit(|letter: char| letter.is_whitespace() || "\"'[,".contains(letter));
    words.next().is_some_and(|word| word.starts_with("--"))
}

fn end_of_value(line: &str, begin: usize, quoted: Quoted) -> usize {
    let value = &line[begin..];
    let length = match quoted {
        Some((quote, escapes)) => end_of_quoted(value, quote, escapes),
        None => value.find(|letter: char| letter.is_whitespace() || ",;\"'}])".contains(letter)),
    };
    length.map_or(line.trim_end().len().max(begin), |length| begin + length)
}

/// Where a quoted value ends: one with more backslashes before it than the first quote had is part of the value.
fn end_of_quoted(value: &str, quote: char, escapes: usize) -> Option<usize> {
    value.match_indices(quote).find_map(|(place, _)| {
        let before = value[..place].trim_end_matches('\\').len();
        (place - before <= escapes).then_some(before)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_key_is_left_out_and_a_certificate_is_not() {
        let text = "a\n-----BEGIN PRIVATE KEY-----\nMIGH\n-----END PRIVATE KEY-----\nb\n-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\nc -----BEGIN EC PRIVATE KEY-----\nhalf";
        let clean = Secrets::default().clean(text);
        assert!(!clean.contains("MIGH") && !clean.contains("half"), "{clean}");
        assert!(clean.contains("MIIB") && clean.starts_with("a\n[left out]\nb\n"), "{clean}");
    }

    #[test]
    fn values_of_secrets_are_left_out() {
        let clean = |text| Secrets::default().clean(text);
        for (text, wanted) in [
            ("root=/dev/vda db.password=hunter2 quiet", "root=/dev/vda db.password=[left out] quiet"),
            (r#"{"token": "abc def", "name": "x"}"#, r#"{"token": "[left out]", "name": "x"}"#),
            ("Authorization: Bearer abc.def\n", "Authorization: Bearer [left out]\n"),
            ("PASSWD: x, y", "PASSWD: [left out], y"),
            ("the token is gone", "the token is gone"),
            ("secret=", "secret="),
            ("token_file: /a/b c", "token_file: [left out] c"),
            (r#"{\"password\":\"hunter2\"} x"#, r#"{\"password\":\"[left out]\"} x"#),
            (r#"\\\"password\\\": \\\"hunter2\\\"."#, r#"\\\"password\\\": \\\"[left out]\\\"."#),
            ("run --token abc --quiet", "run --token [left out] --quiet"),
            ("\u{a0}--token\u{a0}abc\u{a0}x", "\u{a0}--token\u{a0}[left out]\u{a0}x"),
            ("--join-token=abc x", "--join-token=[left out] x"),
            ("--token-file /a/b x", "--token-file [left out] x"),
            (r#"{"password": "a\"b c"} x"#, r#"{"password": "[left out]"} x"#),
            (r#"{\"password\":\"a\\\"b c\"} x"#, r#"{\"password\":\"[left out]\"} x"#),
            (r#"["--token", "abc", "x"]"#, r#"["--token", "[left out]", "x"]"#),
        ] {
            assert_eq!(clean(text), wanted);
        }
    }

    #[test]
    fn what_is_known_is_left_out_wherever_it_stands() {
        let folder = tempfile::tempdir().unwrap();
        let token = "0123456789abcdef0123456789abcdef";
        fs::create_dir_all(folder.path().join("tokens")).unwrap();
        fs::create_dir_all(folder.path().join("node-a")).unwrap();
        fs::write(folder.path().join("tokens/admin"), format!("{token}\n")).unwrap();
        let other = "fedcba9876543210fedcba9876543210";
        fs::write(folder.path().join("node-a/kubeconfig"), format!("{{\"token\":\"{other}\"}}")).unwrap();
        let mut secrets = Secrets::default();
        secrets.learn(folder.path());
        assert_eq!(secrets.clean(&format!("a {token}{other} b")), "a [left out][left out] b");
    }
}
