//! Fault injection: a proxy that does harm to migrations, where and how it is told.
//!
//! ```text
//! source ──▶ Proxy ──▶ destination        control connection, page channels, later questions
//!        ◀──       ◀──                    both ways, frame by frame
//! ```
//!
//! A source migrates to the address of a [`Proxy`] instead of the destination's. The proxy makes a connection to the
//! destination for each one that it takes, and carries bytes both ways. It reads frames as they pass (headers of 16 bytes,
//! structured parts, page data), so it knows by name what it is about to pass on. It checks nothing: bytes that are no frames
//! are carried all the same.
//!
//! Encrypted connections are carried as they are. Their order says what they are for, and the few messages that lead from one phase to
//! the next are told by their way, turn and length. All other places on them are bytes: of a connection, or of a connection in a phase.
//!
//! A [`Fault`] is *what* happens and *where*: `cut@control:before:go`, `flip=3@channel1:in:pages#5+4100`,
//! `kill=destination@control:after:ready`, `freeze=source:2s@any:to-source:byte:900`. The place is a position in the stream of
//! bytes of one connection: before a frame, after it, or at one of its bytes. What happens, happens there exactly: what comes
//! before has been passed on, what comes after has not. So a process that is to die "between *ready* and *go*" needs
//! nothing inside it that helps: the named points of a migration are the frames that one side has sent and the other has not
//! seen. Each fault strikes once. [`fault`] has the whole grammar.
//!
//! [`Proxy::trace`] says afterwards what passed, and [`Proxy::struck`] what was done. [`Draw`] draws faults at random, the same for
//! the same seed, such that every frame and every phase gets its share.
//!
//! What the harm is good for is the business of others: this crate knows the protocol's frames, sockets and processes, and
//! nothing of how a migration goes.
//!
//! * `fault`, `place`: what and where, and their text. `frames`: what passes. `encrypted`: what can be known of it without keys.
//!   `progress`: how far the migration is, and what encrypted connections are for.
//! * `proxy`: takes connections. `link`: one connection. `carrier`: one way of a connection, where faults strike.
//! * `processes`: kill and freeze. `draw`: chance.

mod carrier;
mod draw;
mod encrypted;
pub mod fault;
mod frames;
mod link;
mod place;
mod processes;
mod progress;
mod proxy;
mod stream;
mod trace;

pub use address::Address;
pub use draw::{Draw, Random};
pub use fault::{Fault, FaultError, Side, What};
pub use frames::{FrameName, Phase};
pub use place::{Connections, Edge, Moment, Place, Way};
pub use processes::Processes;
pub use proxy::{Proxy, ProxyError};
pub use trace::{Passed, Struck, Which};
