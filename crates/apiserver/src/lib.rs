//! The Kubernetes wire protocol for the fleet's kinds: kubectl, kube-rs and every other client of Kubernetes speaks to it.
//!
//! A small server for kinds that it is told ([`objects::Kind`]), not a general one. What a machine or a migration is, is not known here.
//!
//! # A request's way
//! TLS and HTTP in `server` (bounded in size, time and number) → [`Api::handle`]: `route` says what the path means, `identity` who it is and
//! whether it may → `read`, `write` or `delete` over the store → [`Reply`]. A write goes through `patch` or `managers` (server-side apply), `metadata` (the server's part of an
//! object), `schema` (defaults, unknown fields, types) and the kind's own check. A watch is carried on by `watch`, as fast as its client reads.
//!
//! Questions that are answered and not stored, as Kubernetes' own reviews of access, go to a [`Reviewer`]. The console comes from here too: `front`
//! has its files and lets people in; what it shows it reads as every client does.
//!
//! What nodes have of objects (logs, reports, consoles) their agents serve, and are called for it: `kept`, `call`, `tunnel`.
//!
//! Where the objects are Kubernetes' own, a [`Gateway`] has the console's files and passes on what it asks.
//!
//! What is not there is refused with the right code: strategic merges of lists 415, everything else that Kubernetes has 404,
//! in words of whoever serves where clients are known to ask ([`Absent`]).

mod absent;
mod agents;
mod api;
mod call;
mod calls;
mod delete;
mod discovery;
mod expiry;
mod explain;
mod figures;
mod form;
mod front;
mod gateway;
mod identity;
mod join;
mod jsonpath;
mod kept;
mod lines;
mod login;
mod managers;
mod metadata;
mod openapi;
mod pages;
mod patch;
mod protobuf;
mod read;
mod registrar;
mod review;
mod reviewer;
mod route;
mod schema;
mod scrape;
mod selector;
mod server;
mod status;
mod table;
mod tls;
mod tunnel;
mod watch;
mod web_socket;
mod write;

pub use absent::Absent;
pub use agents::{Agents, Errand};
pub use api::{Api, Body, Reply, Request};
pub use call::{Call, Fetched};
pub use calls::Calls;
pub use figures::Figures;
pub use gateway::{Gateway, GatewayError};
pub use identity::{Identity, Role, Tokens};
pub use pages::File;
pub use registrar::Registrar;
pub use reviewer::Reviewer;
pub use server::Server;
pub use status::ApiError;
pub use tls::{TlsError, tls_config};
pub use watch::Watch;
