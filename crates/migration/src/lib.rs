//! Migration as state machines and decisions.
//!
//! Nothing here reads a clock, opens a socket or starts a thread. Events and the time go in, actions come out; the
//! `engine` crate carries the actions out on real sockets and a real machine, tests carry them out on a simulated
//! network that drops, cuts, delays and kills.
//!
//! ```text
//! source                                       destination
//!   Connect ──────────── Hello ───────────────▶  check everything
//!   Prepare ◀─────────── Accept ───────────────
//!           ◀──────── ChannelsOpen ────────────
//!   round 0: all of RAM ═══ channels ═════════▶  place
//!   round n: what was dirtied ════════════════▶  place
//!   (convergence says: switch)
//!   Stop, last pass ══════════════════════════▶  place
//!   SaveDevices ───────── Device × n ─────────▶  keep
//!               ───────── Complete ───────────▶  whole? load, lock disks
//!               ◀──────── Ready ───────────────
//!   (hand-over) ───────── Go ─────────────────▶  run
//!               ◀──────── Running ─────────────
//!   End         ───────── Bye ────────────────▶  end
//! ```
//!
//! Read [`handover`] for the rule on who may run the machine, [`custody`] for who has its pages, [`source`] and [`destination`] for
//! the way of a migration,
//! [`convergence`] for the decision when to switch, [`fixed_costs`], [`wire_rate`] and [`page_cost`] for what it rests on, [`stats`] for what is
//! counted and foretold.

mod advice;

pub mod by_when;
pub mod convergence;
pub mod custody;
pub mod destination;
pub mod dirty_limit;
pub mod dirtying;
pub mod encodings;
pub mod fixed_costs;
pub mod handover;
pub mod page_cost;
pub mod params;
pub mod predict;
pub mod source;
pub mod stats;
pub mod status;
pub mod throttle;
pub mod wire_rate;

pub use advice::Advice;
pub use by_when::{ByWhen, Means};
pub use convergence::{Decision, Next};
pub use destination::Destination;
pub use dirty_limit::DirtyLimit;
pub use encodings::Encodings;
pub use fixed_costs::FixedCosts;
pub use page_cost::PageCost;
pub use params::{Params, Postcopy};
pub use source::Source;
pub use stats::{Downtime, Progress, RoundStats, Statistics};
pub use status::{Outcome, Status};
pub use throttle::{Steps, Throttling};
pub use wire_rate::WireRate;

/// Time since the attempt began.
pub type Time = std::time::Duration;

/// Bytes of a page.
pub const PAGE_BYTES: u64 = wire::PAGE_BYTES as u64;

/// How long a digest of `bytes` of memory may take on a slow host; widens the time-outs where one is asked for.
fn digest_time(bytes: u64) -> std::time::Duration {
    const BYTES_PER_SECOND: u64 = 200 << 20;
    std::time::Duration::from_secs(bytes / BYTES_PER_SECOND)
}
