use std::str::FromStr;

use crate::ValueError;

/// The options of one flag, written `key=value,key=value`. A comma in a value is written twice, as in QEMU.
#[derive(Debug)]
pub(crate) struct Options {
    pairs: Vec<(String, String)>,
}

impl Options {
    /// Splits `typed`, allowing only the keys of `known` (separated by spaces). The first part may be a bare value where
    /// `first` names the option it is for.
    pub(crate) fn parse(typed: &str, known: &'static str, first: Option<&str>) -> Result<Self, ValueError> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for (index, part) in split(typed).into_iter().enumerate() {
            let (key, value) = match (part.split_once('='), first) {
                (Some((key, value)), _) => (key.to_owned(), value.to_owned()),
                (None, Some(first)) if index == 0 => (first.to_owned(), part),
                (None, _) if known.split(' ').any(|key| key == part) => {
                    return Err(ValueError::NoValue { typed: part });
                }
                (None, _) => return Err(ValueError::UnknownOption { key: part, known }),
            };
            if !known.split(' ').any(|option| option == key) {
                return Err(ValueError::UnknownOption { key, known });
            }
            if pairs.iter().any(|(earlier, _)| *earlier == key) {
                return Err(ValueError::Repeated { key });
            }
            pairs.push((key, value));
        }
        Ok(Self { pairs })
    }

    /// The value of `key`, if it was given.
    pub(crate) fn value<T: FromStr<Err = ValueError>>(&self, key: &str) -> Result<Option<T>, ValueError> {
        self.pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value.parse()).transpose()
    }

    /// The value of `key`, on or off; off if it was not given.
    pub(crate) fn switch(&self, key: &str) -> Result<bool, ValueError> {
        let pair = self.pairs.iter().find(|(name, _)| name == key);
        pair.map_or(Ok(false), |(_, value)| switch(value))
    }
}

/// `on` or `off`, also `true` or `false`.
pub(crate) fn switch(typed: &str) -> Result<bool, ValueError> {
    match typed {
        "on" | "true" => Ok(true),
        "off" | "false" => Ok(false),
        _ => Err(ValueError::Choice { typed: typed.into(), choices: "a switch: write on or off" }),
    }
}

/// The parts between single commas, with double commas turned into commas.
pub(crate) fn split(typed: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = typed.chars().peekable();
    while let Some(next) = chars.next() {
        if next == ',' && chars.next_if_eq(&',').is_none() {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(next);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_commas_separate_and_double_commas_are_text() {
        assert_eq!(split("a,b"), ["a", "b"]);
        assert_eq!(split("a,,b"), ["a,b"]);
        assert_eq!(split("a,,,b"), ["a,", "b"]);
        assert_eq!(split(""), [""]);
        assert_eq!(split(","), ["", ""]);
    }

    #[test]
    fn unknown_repeated_and_bare_options_are_refused() {
        let parse = |typed| Options::parse(typed, "path readonly", Some("path")).map(|_| ()).unwrap_err();
        assert!(matches!(parse("path=a,speed=9"), ValueError::UnknownOption { .. }));
        assert!(matches!(parse("a,path=b"), ValueError::Repeated { .. }));
        assert!(matches!(parse("a,readonly"), ValueError::NoValue { .. }));
        assert!(matches!(parse("a,b"), ValueError::UnknownOption { .. }));
    }
}
