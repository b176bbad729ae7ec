//! Bad input gets a clear answer, and nothing is lost.

mod door;
mod flags;
mod monitor;
