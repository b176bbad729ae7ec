//! The messages of QMP, and how they lie in a stream of bytes.
//!
//! A server greets, the client sends `qmp_capabilities`, and from then on every request gets one reply, in order, with
//! events in between. The server ends each message with CR LF. A client may, but need not, end its messages with a newline:
//! see [`Splitter`].

mod message;
mod splitter;
mod strict;

pub use message::{Event, Greeting, GreetingBody, Reply, Request, Timestamp};
pub use splitter::{FrameError, MAX_DEPTH, MAX_VALUE_BYTES, Splitter};
pub use strict::parse_json;
