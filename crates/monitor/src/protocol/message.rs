use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{CommandError, ErrorClass, types::VersionInfo};

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Request {
    /// Name of the command.
    pub execute: String,
    /// Its arguments by name.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub arguments: Map<String, Value>,
    /// Anything; the reply carries the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Value>,
}

impl Request {
    /// Takes a request apart, and says what is wrong with it in QEMU's words. A failure comes with the request's id, if it
    /// has one, so that the reply can carry it.
    pub fn parse(value: Value) -> Result<Self, Reply> {
        let Value::Object(mut members) = value else {
            return Err(Reply::err(None, CommandError::generic("QMP input must be a JSON object")));
        };
        let id = members.remove("id");
        match Self::parse_members(members) {
            Ok((execute, arguments)) => Ok(Self { execute, arguments, id }),
            Err(error) => Err(Reply::err(id, error)),
        }
    }

    fn parse_members(mut members: Map<String, Value>) -> Result<(String, Map<String, Value>), CommandError> {
        let execute = members.remove("execute");
        let arguments = members.remove("arguments");
        if let Some(name) = members.keys().next() {
            return Err(CommandError::generic(format!("QMP input member '{name}' is unexpected")));
        }
        let execute = match execute {
            Some(Value::String(name)) => name,
            Some(_) => return Err(CommandError::generic("QMP input member 'execute' must be a string")),
            None => return Err(CommandError::generic("QMP input lacks member 'execute'")),
        };
        let arguments = match arguments {
            Some(Value::Object(arguments)) => arguments,
            Some(_) => return Err(CommandError::generic("QMP input member 'arguments' must be an object")),
            None => Map::new(),
        };
        Ok((execute, arguments))
    }

    /// The request as bytes, with a newline.
    pub fn to_line(&self) -> Vec<u8> {
        to_line(self)
    }
}

/// The answer to a request: one of `result` and `error` is there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// What the command returned.
    #[serde(rename = "return", skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<CommandError>,
    /// The request's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Value>,
}

impl Reply {
    /// The answer to the request with this id.
    pub fn new(id: Option<Value>, outcome: Result<Value, CommandError>) -> Self {
        match outcome {
            Ok(result) => Self { result: Some(result), error: None, id },
            Err(error) => Self::err(id, error),
        }
    }

    /// An error.
    pub fn err(id: Option<Value>, error: CommandError) -> Self {
        Self { result: None, error: Some(error), id }
    }

    /// What the command returned, or why it failed.
    pub fn into_outcome(self) -> Result<Value, CommandError> {
        let neither =
            || CommandError { class: ErrorClass::GenericError, desc: "The reply is empty".to_owned() };
        self.result.ok_or_else(|| self.error.unwrap_or_else(neither))
    }

    /// The reply as bytes, with CR LF.
    pub fn to_line(&self) -> Vec<u8> {
        to_line(self)
    }
}

/// Something that happened, unasked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When, by the host's clock.
    pub timestamp: Timestamp,
    /// Name, such as `STOP`.
    pub event: String,
    /// What is to be said about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
}

impl Event {
    /// The event as bytes, with CR LF.
    pub fn to_line(&self) -> Vec<u8> {
        to_line(self)
    }
}

/// Time since 1970 by the host's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timestamp {
    /// Whole seconds; -1 when the time is not known.
    pub seconds: i64,
    /// The rest, 0 to 999 999.
    pub microseconds: i64,
}

impl Timestamp {
    /// The time now.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self {
            seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            microseconds: i64::from(since.subsec_micros()),
        }
    }
}

/// The first thing that a server says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Greeting {
    /// What it says.
    #[serde(rename = "QMP")]
    pub qmp: GreetingBody,
}

/// The inside of a [`Greeting`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GreetingBody {
    /// Who answers.
    pub version: VersionInfo,
    /// Extensions of the protocol that may be asked for. Whimbrel offers none: every command is answered at once, so no
    /// command needs to overtake another (`oob`).
    pub capabilities: Vec<String>,
}

impl Greeting {
    /// The greeting as bytes, with CR LF.
    pub fn to_line(&self) -> Vec<u8> {
        to_line(self)
    }
}

fn to_line(message: &impl Serialize) -> Vec<u8> {
    // Writing to memory cannot fail, and no message has a map whose keys are not texts. Should one ever have, the client is
    // told, and nothing breaks.
    let mut line = serde_json::to_vec(message).unwrap_or_else(|error| {
        tracing::error!(%error, "A QMP message could not be encoded");
        br#"{"error":{"class":"GenericError","desc":"The message could not be encoded"}}"#.to_vec()
    });
    line.extend_from_slice(b"\r\n");
    line
}
