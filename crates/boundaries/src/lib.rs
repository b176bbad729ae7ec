//! What each crate may know, as tests. Nothing depends on this crate.
//!
//! * `tests/dependencies.rs`: which crate may depend on which, and on which crates from outside it must not.
//! * `tests/knowledge.rs`: which parts of the standard library a crate must not name.
//! * `tests/circles.rs`: inside a crate, no modules that need each other.
//! * `tests/policy.rs`: where `unsafe` may stand, how long a file may be, nothing left to do.
//!
//! The tables in those files are the rule; ARCHITECTURE.md explains it. Whoever has a reason to change a rule changes the
//! table, in the commit that needs it.

mod modules;
mod source;

pub use modules::{Mention, Modules};
pub use source::{SourceFile, named_paths, root, sources, unsafe_lines};
