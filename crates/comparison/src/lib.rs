//! The comparison of Whimbrel with QEMU: three scenarios, moved in every mode of both, with what the guest and its
//! users felt.
//!
//! Whoever drives the machines fills [`Comparison`] in; this crate plans it, and makes figures, tables, verdicts and
//! a page of it. It knows no process, socket or clock.
//!
//! * [`scale`]: the scenarios, and how they are made smaller for a machine.
//! * [`Run`] and [`Trace`]: one move, and all that was seen of it.
//! * [`felt`]: what a user makes of that.
//! * [`figures`]: each figure of a run, by name; [`Spread`]: what repetitions make of one.
//! * [`tables`], [`published`], [`bars`], [`against`]: what is shown on a terminal.
//! * [`html`]: one page. [`timeline`]: one run as a picture.

pub mod against;
pub mod bars;
mod contest;
pub mod felt;
pub mod figures;
pub mod html;
pub mod published;
mod run;
pub mod scale;
mod spread;
pub mod tables;
pub mod timeline;

pub use contest::{Contender, Mode};
pub use run::{Comparison, MAX_BYTES, Outcome, ReadError, Run, Trace};
pub use scale::Scenario;
pub use spread::{Spread, spread};
