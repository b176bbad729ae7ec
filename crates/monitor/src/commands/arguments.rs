use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::CommandError;

/// A command's arguments: each is taken out once and checked, and what is left over at the end is an error. The errors are
/// worded as QEMU words them.
#[derive(Debug)]
pub(crate) struct Arguments {
    members: Map<String, Value>,
    /// What stands before a member's name in errors: `capabilities[0].` for an element of a list.
    path: String,
}

type Taken<T> = Result<T, CommandError>;

impl Arguments {
    pub(crate) fn new(members: Map<String, Value>) -> Self {
        Self { members, path: String::new() }
    }

    /// Every argument must have been taken.
    pub(crate) fn finish(self) -> Taken<()> {
        match self.members.keys().next() {
            Some(name) => {
                Err(CommandError::generic(format!("Parameter '{}{name}' is unexpected", self.path)))
            }
            None => Ok(()),
        }
    }

    pub(crate) fn string(&mut self, name: &str) -> Taken<String> {
        let value = self.optional_string(name)?;
        value.ok_or_else(|| self.missing(name))
    }

    pub(crate) fn optional_string(&mut self, name: &str) -> Taken<Option<String>> {
        self.take(name, "string", |value| match value {
            Value::String(text) => Some(text),
            _ => None,
        })
    }

    pub(crate) fn u64(&mut self, name: &str) -> Taken<u64> {
        let value = self.optional_u64(name)?;
        value.ok_or_else(|| self.missing(name))
    }

    /// A number of 0 or more, without fraction.
    pub(crate) fn optional_u64(&mut self, name: &str) -> Taken<Option<u64>> {
        self.take(name, "non-negative integer", |value| value.as_u64())
    }

    /// A whole number of either sign.
    pub(crate) fn i64(&mut self, name: &str) -> Taken<i64> {
        let value = self.take(name, "integer", |value| value.as_i64())?;
        value.ok_or_else(|| self.missing(name))
    }

    pub(crate) fn bool(&mut self, name: &str) -> Taken<bool> {
        let value = self.optional_bool(name)?;
        value.ok_or_else(|| self.missing(name))
    }

    pub(crate) fn optional_bool(&mut self, name: &str) -> Taken<Option<bool>> {
        self.take(name, "boolean", |value| value.as_bool())
    }

    /// A word, for which `true` and `false` may stand too.
    pub(crate) fn optional_word(&mut self, name: &str, on: &str, off: &str) -> Taken<Option<String>> {
        self.take(name, "string or boolean", |value| match value {
            Value::String(text) => Some(text),
            Value::Bool(value) => Some(if value { on } else { off }.to_owned()),
            _ => None,
        })
    }

    /// The names of a list; none if it is absent.
    pub(crate) fn optional_strings(&mut self, name: &str) -> Taken<Vec<String>> {
        let list = self.take(name, "array of strings", |value| match value {
            Value::Array(list) => list.into_iter().map(|item| item.as_str().map(str::to_owned)).collect(),
            _ => None,
        })?;
        Ok(list.unwrap_or_default())
    }

    /// An object, with arguments of its own.
    pub(crate) fn object(&mut self, name: &str) -> Taken<Self> {
        let path = format!("{}{name}.", self.path);
        let members = self.take(name, "object", as_object)?;
        members.map(|members| Self { members, path }).ok_or_else(|| self.missing(name))
    }

    /// A list of objects.
    pub(crate) fn objects(&mut self, name: &str) -> Taken<Vec<Self>> {
        let objects = self.optional_objects(name)?;
        objects.ok_or_else(|| self.missing(name))
    }

    pub(crate) fn optional_objects(&mut self, name: &str) -> Taken<Option<Vec<Self>>> {
        let path = format!("{}{name}", self.path);
        self.take(name, "array of objects", |value| match value {
            Value::Array(list) => list
                .into_iter()
                .enumerate()
                .map(|(i, item)| Some(Self { members: as_object(item)?, path: format!("{path}[{i}].") }))
                .collect(),
            _ => None,
        })
    }

    /// Takes a text, or `null`, which QEMU's schema has for "none".
    pub(crate) fn optional_string_or_null(&mut self, name: &str) -> Taken<Option<String>> {
        match self.members.get(name) {
            Some(Value::Null) => {
                self.members.remove(name);
                Ok(Some(String::new()))
            }
            _ => self.optional_string(name),
        }
    }

    /// The names that have not been taken yet.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.members.keys().map(String::as_str)
    }

    fn take<T>(
        &mut self,
        name: &str,
        expected: &str,
        convert: impl Fn(Value) -> Option<T>,
    ) -> Taken<Option<T>> {
        let Some(value) = self.members.remove(name) else { return Ok(None) };
        convert(value).map(Some).ok_or_else(|| {
            let path = &self.path;
            CommandError::generic(format!("Invalid parameter type for '{path}{name}', expected: {expected}"))
        })
    }

    fn missing(&self, name: &str) -> CommandError {
        CommandError::generic(format!("Parameter '{}{name}' is missing", self.path))
    }
}

fn as_object(value: Value) -> Option<Map<String, Value>> {
    match value {
        Value::Object(members) => Some(members),
        _ => None,
    }
}

/// The error for a text that is none of those that an argument may be.
pub(crate) fn not_accepted(name: &str, value: &str) -> CommandError {
    CommandError::generic(format!("Parameter '{name}' does not accept value '{value}'"))
}

/// The value, if it is in the range.
pub(super) fn in_range(name: &str, value: u64, range: RangeInclusive<u64>) -> Result<u64, CommandError> {
    if range.contains(&value) {
        return Ok(value);
    }
    let (low, high) = range.into_inner();
    Err(CommandError::generic(format!(
        "Parameter '{name}' expects a value between {low} and {high}, not {value}"
    )))
}
