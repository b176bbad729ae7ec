//! Bad input gets a clear answer, and nothing is lost.

mod flags;
mod monitor;
mod strangers;
