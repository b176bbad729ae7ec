//! Reading objects: one, a list in pieces, and where a watch begins.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use objects::Kind;
use serde_json::{Value, json};
use store::Entry;

use crate::{
    Api, ApiError, Identity, Reply, Role,
    api::{Body, Request},
    form::{Form, object, text},
    route::{Query, Target},
    selector::Selector,
    table,
    watch::{Begin, Watch},
};

impl Api {
    /// The object that a target names.
    pub(crate) fn find(&self, target: &Target) -> Result<(Entry, Value), ApiError> {
        let name = target.name.as_deref().unwrap_or_default();
        let entry = self.store.get(&target.key()).ok_or_else(|| ApiError::not_found(&target.kind, name))?;
        let object = object(&entry)?;
        Ok((entry, object))
    }

    /// The object that a target names, if there is one.
    pub(crate) fn find_if_any(&self, target: &Target) -> Result<Option<(Entry, Value)>, ApiError> {
        let Some(entry) = self.store.get(&target.key()) else { return Ok(None) };
        let object = object(&entry)?;
        Ok(Some((entry, object)))
    }

    pub(crate) fn get(
        &self,
        request: &Request,
        identity: &Identity,
        target: &Target,
    ) -> Result<Reply, ApiError> {
        let found = self.find(target);
        if let Role::Node(node) = &identity.role {
            // Whether there is one is no matter of those either who may not read it; who may is told that there is none.
            let nothing = json!({ "metadata": { "name": target.name, "namespace": target.namespace } });
            let object = found.as_ref().map_or(&nothing, |(_, object)| object);
            if !target.kind.is_for_node(node, object, &|plural, namespace| self.all(plural, namespace)) {
                let name = target.name.as_deref().unwrap_or_default();
                let what = format!(
                    "cannot get {} {name:?}: no machine of this node needs it",
                    crate::status::qualified(&target.kind)
                );
                return Err(ApiError::forbidden(&identity.name, &what));
            }
        }
        let (_, object) = found?;
        let form = Form::of(&request.accept, &Query::parse(&request.query)?);
        Ok(Reply::value(200, form.one(&target.kind, object)))
    }

    pub(crate) fn list(&self, request: &Request, target: &Target, query: &Query) -> Result<Reply, ApiError> {
        let kind = &target.kind;
        let selector = Selector::parse(query.get("labelSelector"), query.get("fieldSelector"))?;
        let limit = usize::try_from(query.number("limit")?.unwrap_or(0)).unwrap_or(usize::MAX);
        let limit = if limit == 0 { usize::MAX } else { limit };
        let (at, after) = match query.get("continue") {
            Some(token) => {
                let (revision, key) = parse_continue(token)?;
                (Some(revision), Some(key))
            }
            // A revision without a word on how it is meant: not older than that, which what is now always is.
            None if query.get("resourceVersionMatch") == Some("Exact") => {
                (query.number("resourceVersion")?, None)
            }
            None => (None, None),
        };
        let page = self.store.list(&target.key(), at, after.as_deref(), limit)?;
        let mut metadata = json!({ "resourceVersion": page.revision.to_string() });
        if page.remaining > 0
            && let Some((key, _)) = page.entries.last()
        {
            metadata["continue"] = URL_SAFE_NO_PAD.encode(format!("{} {key}", page.revision)).into();
            if selector == Selector::default() {
                metadata["remainingItemCount"] = page.remaining.into();
            }
        }
        let form = Form::of(&request.accept, query);
        if form == Form::Objects && selector == Selector::default() {
            let body = Body::Json(whole(kind, &metadata, &page.entries)?);
            return Ok(Reply { code: 200, warnings: Vec::new(), body });
        }
        let mut items = Vec::with_capacity(page.entries.len());
        for (_, entry) in &page.entries {
            let item = object(entry)?;
            if selector.matches(&item) {
                items.push(item);
            }
        }
        let list = match form {
            Form::Table(include) => table::table(kind, &items, &metadata, include, Timestamp::now()),
            Form::Objects => json!({
                "kind": format!("{}List", kind.names.kind), "apiVersion": kind.api_version(), "metadata": metadata,
                "items": items,
            }),
        };
        Ok(Reply::value(200, list))
    }

    pub(crate) fn watch(&self, request: &Request, target: &Target, query: &Query) -> Result<Reply, ApiError> {
        let selector = Selector::parse(query.get("labelSelector"), query.get("fieldSelector"))?;
        let sends_initial = query.is_true("sendInitialEvents");
        let begin = match query.number("resourceVersion")? {
            // From now, after everything that there is.
            None | Some(0) => Begin::WithAll { is_marked: sends_initial },
            Some(_) if sends_initial => Begin::WithAll { is_marked: true },
            Some(revision) => Begin::After(revision),
        };
        let watch = Watch {
            store: self.store.clone(),
            lines: self.lines.clone(),
            kind: target.kind.clone(),
            prefix: target.key(),
            selector,
            form: Form::of(&request.accept, query),
            begin,
            bookmarks: query.is_true("allowWatchBookmarks"),
            timeout_seconds: query.number("timeoutSeconds")?,
        };
        Ok(Reply { code: 200, warnings: Vec::new(), body: Body::Watch(watch) })
    }
}

/// The text of a list of all entries, as they are.
fn whole(kind: &Kind, metadata: &Value, entries: &[(String, Entry)]) -> Result<Vec<u8>, ApiError> {
    let head = format!(
        "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
        kind.names.kind,
        kind.api_version()
    );
    let mut list = head.into_bytes();
    for (index, (_, entry)) in entries.iter().enumerate() {
        if index > 0 {
            list.push(b',');
        }
        list.extend(text(entry, entry.revision)?);
    }
    list.extend(b"]}");
    Ok(list)
}

/// The revision and the last key of a list that goes on.
fn parse_continue(token: &str) -> Result<(u64, String), ApiError> {
    let wrong = || ApiError::bad_request("continue key is not valid");
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| wrong())?;
    let text = String::from_utf8(bytes).map_err(|_| wrong())?;
    let (revision, key) = text.split_once(' ').ok_or_else(wrong)?;
    Ok((revision.parse().map_err(|_| wrong())?, key.to_owned()))
}
