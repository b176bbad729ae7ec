//! The report of a migration: what became of it, and where its time went.
//!
//! Each side of a migration writes one when it is over, however it ended. This crate is its shape and how it is shown; it knows
//! no migration, hypervisor or socket. Whoever ran the migration fills a [`Report`] in.
//!
//! * [`Report`]: the figures, as JSON. The schema is `docs/report.schema.json`.
//! * [`Report::read`]: from bytes that anybody may have written.
//! * [`text`]: for a terminal. [`html`]: one page that needs nothing else.

mod figures;
mod following;
pub mod html;
mod quantity;
mod read;
mod report;
pub mod text;

pub use figures::{
    Arrived, ArrivedChannel, Certificate, Decision, Downtime, Encoded, Integrity, Machine, Parameters, Party,
    Phase, Round, RoundStalls, Security, Stalls, Totals,
};
pub use following::{Following, WaitStep, Waits};
pub use read::{MAX_BYTES, ReadError};
pub use report::{Outcome, Report, SCHEMA, Side};
