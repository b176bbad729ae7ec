//! Changes as they happen.
//!
//! A watch is a position in the store's history and nothing else: a client that reads slowly holds up its own watch, whose next piece
//! waits in [`run`], and learns by *410 Gone* that it has fallen out of the history. No queue grows meanwhile.

use std::{sync::Arc, time::Duration};

use hyper::body::Bytes;
use objects::Kind;
use serde_json::{Value, json};
use store::{Change, Entry, Store};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use crate::{
    ApiError,
    form::{Form, object},
    lines::Lines,
    selector::Selector,
};

/// A watch that has not begun.
#[derive(Debug)]
pub struct Watch {
    pub(crate) store: Arc<Store>,
    pub(crate) lines: Arc<Lines>,
    pub(crate) kind: Arc<Kind>,
    pub(crate) prefix: String,
    pub(crate) selector: Selector,
    pub(crate) form: Form,
    pub(crate) begin: Begin,
    pub(crate) bookmarks: bool,
    pub(crate) timeout_seconds: Option<u64>,
}

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// After a revision.
    After(u64),
    /// With everything that there is, and a bookmark at its end if that is asked for.
    WithAll { is_marked: bool },
}

/// Changes that are looked at in one step.
const STEP: usize = 100;
/// Bytes of lines that go out as one piece, about.
const PIECE: usize = 64 << 10;
/// How often a client that wants bookmarks is told where it is while nothing happens.
const BOOKMARK: Duration = Duration::from_secs(30);
/// How long a watch lasts if nothing is said, and at most. Clients begin another.
const LONGEST_SECONDS: u64 = 3600;

/// Sends lines until the time is up, the client has gone, or something cannot go on.
pub(crate) async fn run(watch: Watch, out: mpsc::Sender<Bytes>) {
    if let Err(error) = follow(&watch, &out).await {
        let line = json!({ "type": "ERROR", "object": error.to_status() });
        // The client may have gone.
        let _ = out.send(line_of(&line).into()).await;
    }
}

async fn follow(watch: &Watch, out: &mpsc::Sender<Bytes>) -> Result<(), ApiError> {
    let seconds = watch.timeout_seconds.unwrap_or(LONGEST_SECONDS).min(LONGEST_SECONDS);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut latest = watch.store.latest();
    let mut position = match watch.begin {
        Begin::After(revision) => revision,
        Begin::WithAll { is_marked } => match all(watch, is_marked, out).await? {
            Some(position) => position,
            None => return Ok(()),
        },
    };
    let mut told = Instant::now();
    loop {
        latest.mark_unchanged();
        let (changes, next) = watch.store.changes(&watch.prefix, position, STEP)?;
        let mut lines = piece(watch, &changes)?;
        let is_behind = next < watch.store.revision();
        position = next;
        if lines.is_empty() && watch.bookmarks && told.elapsed() >= BOOKMARK {
            lines = line_of(&bookmark(watch, position, false)).into();
        }
        if !lines.is_empty() {
            told = Instant::now();
            if !send(out, lines, end).await {
                return Ok(());
            }
        }
        if is_behind {
            continue;
        }
        let until = if watch.bookmarks { end.min(Instant::now() + BOOKMARK) } else { end };
        tokio::select! {
            _ = timeout_at(until, latest.changed()) => {}
            () = out.closed() => return Ok(()),
        }
        if Instant::now() >= end {
            return Ok(());
        }
    }
}

/// Everything that there is, as if it had just been made. Returns the revision as of which, or `None` if the client has gone.
async fn all(watch: &Watch, is_marked: bool, out: &mpsc::Sender<Bytes>) -> Result<Option<u64>, ApiError> {
    let page = watch.store.list(&watch.prefix, None, None, usize::MAX)?;
    let end = Instant::now() + Duration::from_secs(LONGEST_SECONDS);
    let mut lines = Vec::new();
    for (_, entry) in &page.entries {
        let object = object(entry)?;
        if watch.selector.matches(&object) {
            lines.extend(line_of(&json!({ "type": "ADDED", "object": watch.form.one(&watch.kind, object) })));
        }
        if lines.len() >= PIECE && !send(out, std::mem::take(&mut lines), end).await {
            return Ok(None);
        }
    }
    if is_marked {
        lines.extend(line_of(&bookmark(watch, page.revision, true)));
    }
    let is_there = lines.is_empty() || send(out, lines, end).await;
    Ok(is_there.then_some(page.revision))
}

/// The lines that tell of changes. That of one alone, as most are, is not copied.
fn piece(watch: &Watch, changes: &[Change]) -> Result<Bytes, ApiError> {
    if let [change] = changes {
        return line(watch, change);
    }
    let lines: Result<Vec<_>, _> = changes.iter().map(|change| line(watch, change)).collect();
    Ok(lines?.concat().into())
}

/// The line that tells of a change; empty where the watch does not see it.
fn line(watch: &Watch, change: &Change) -> Result<Bytes, ApiError> {
    if watch.form != Form::Objects || watch.selector != Selector::default() {
        return Ok(event(watch, change)?.map(|event| line_of(&event)).unwrap_or_default().into());
    }
    watch.lines.of(change)
}

/// What a change is to somebody who sees only what the selector lets through.
fn event(watch: &Watch, change: &Change) -> Result<Option<Value>, ApiError> {
    let seen = |entry: &Option<Entry>| -> Result<Option<Value>, ApiError> {
        let Some(entry) = entry else { return Ok(None) };
        Ok(Some(object(entry)?).filter(|object| watch.selector.matches(object)))
    };
    let (before, now) = (seen(&change.previous)?, seen(&change.entry)?);
    let (name, mut object) = match (before, now) {
        (None, None) => return Ok(None),
        (None, Some(now)) => ("ADDED", now),
        (Some(_), Some(now)) => ("MODIFIED", now),
        (Some(before), None) => ("DELETED", before),
    };
    object["metadata"]["resourceVersion"] = change.revision.to_string().into();
    Ok(Some(json!({ "type": name, "object": watch.form.one(&watch.kind, object) })))
}

fn bookmark(watch: &Watch, revision: u64, is_end_of_all: bool) -> Value {
    let mut metadata = json!({ "resourceVersion": revision.to_string() });
    if is_end_of_all {
        metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
    }
    let object = match watch.form {
        Form::Objects => {
            json!({ "kind": watch.kind.names.kind, "apiVersion": watch.kind.api_version(), "metadata": metadata })
        }
        Form::Table(_) => json!({
            "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": [],
            "rows": [{ "cells": [], "object": {
                "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
            }}],
        }),
    };
    json!({ "type": "BOOKMARK", "object": object })
}

/// Whether the client is still there.
async fn send(out: &mpsc::Sender<Bytes>, lines: impl Into<Bytes>, end: Instant) -> bool {
    matches!(timeout_at(end, out.send(lines.into())).await, Ok(Ok(())))
}

fn line_of(event: &Value) -> Vec<u8> {
    let mut line = event.to_string().into_bytes();
    line.push(b'\n');
    line
}
