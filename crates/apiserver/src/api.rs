//! What is done for each request. Nothing here waits: whoever serves calls this on a thread that may do I/O.

use std::{sync::Arc, time::Duration};

use hyper::HeaderMap;
use jiff::Timestamp;
use objects::Kind;
use parking_lot::{Mutex, RwLock};
use serde_json::{Value, json};
use store::{Expect, Store};

use crate::{
    Absent, Agents, ApiError, Call, Fetched, Figures, File, Identity, Registrar, Reviewer, Role, Tokens,
    discovery,
    identity::{CONSOLE, Verb},
    lines::Lines,
    login::Logins,
    metadata, openapi,
    pages::Pages,
    protobuf,
    route::{Query, Route, Target},
    watch::Watch,
};

/// How long a conversation with a guest may go on before its client has to come again: as long as a watch.
const CONVERSATION: Duration = Duration::from_secs(3600);

/// The objects of a fleet, and who may do what with them.
#[derive(Debug)]
pub struct Api {
    pub(crate) store: Arc<Store>,
    /// What watches are told.
    pub(crate) lines: Arc<Lines>,
    pub(crate) kinds: Vec<Arc<Kind>>,
    pub(crate) tokens: RwLock<Tokens>,
    /// Who lets hosts join; nobody where hosts cannot.
    pub(crate) registrar: Option<Arc<dyn Registrar>>,
    /// Who answers questions that are not stored; nobody where there are none.
    pub(crate) reviewer: Option<Arc<dyn Reviewer>>,
    /// Who knows which agent has what; nobody where there are none.
    pub(crate) agents: Option<Arc<dyn Agents>>,
    /// How people come into the console; `None` where there is none.
    pub(crate) logins: Option<Logins>,
    /// The console's files.
    pub(crate) pages: Pages,
    /// Who knows the figures at `/metrics`; nobody where there are none.
    pub(crate) figures: Option<Arc<dyn Figures>>,
    /// What clients of Kubernetes ask for and is not here.
    pub(crate) absent: &'static [Absent],
    /// Held from reading until writing, so that what was checked holds when it is written.
    pub(crate) writing: Mutex<()>,
}

/// A request, with its body read.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// `GET`, `POST`, `PUT`, `PATCH` or `DELETE`.
    pub method: String,
    /// The path, as it came.
    pub path: String,
    /// What follows the question mark.
    pub query: String,
    /// The header `Accept`.
    pub accept: String,
    /// The header `Accept-Encoding`.
    pub accept_encoding: String,
    /// The header `Content-Type`.
    pub content_type: String,
    /// The header `Authorization`.
    pub authorization: Option<String>,
    /// Headers of a client that wants to speak WebSocket.
    pub web_socket: Option<HeaderMap>,
    /// The body.
    pub body: Vec<u8>,
}

/// What is sent back.
#[derive(Debug)]
pub struct Reply {
    /// The status code of HTTP.
    pub code: u16,
    /// Sentences for the header `Warning`.
    pub warnings: Vec<String>,
    /// What follows.
    pub body: Body,
}

/// What follows the head of a reply.
#[derive(Debug)]
pub enum Body {
    /// JSON.
    Value(Value),
    /// JSON that is text already.
    Json(Vec<u8>),
    /// A line of text.
    Text(&'static str),
    /// A file of the console.
    File(File),
    /// A text of whatever type.
    Fetched(Fetched),
    /// What an agent replies to this.
    Call(Call),
    /// Look there instead.
    Redirect(&'static str),
    /// Changes as they happen.
    Watch(Watch),
}

impl Reply {
    pub(crate) fn value(code: u16, value: Value) -> Self {
        Self { code, warnings: Vec::new(), body: Body::Value(value) }
    }

    /// The UID of the object that it is.
    fn uid(&self) -> Option<&str> {
        match &self.body {
            Body::Value(value) => value["metadata"]["uid"].as_str(),
            _ => None,
        }
    }
}

impl Api {
    /// An API over that store, for those kinds and those clients. The namespace `default` is made if it is missing.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn new(store: Arc<Store>, kinds: Vec<Kind>, tokens: Tokens) -> Result<Self, ApiError> {
        let kinds = kinds.into_iter().map(Arc::new).collect();
        let tokens = RwLock::new(tokens);
        let api = Self {
            store,
            lines: Arc::default(),
            kinds,
            tokens,
            registrar: None,
            reviewer: None,
            agents: None,
            logins: None,
            pages: Pages::default(),
            figures: None,
            absent: &[],
            writing: Mutex::new(()),
        };
        if api.store.get("/namespaces/default").is_none() {
            let object = json!({
                "apiVersion": "v1", "kind": "Namespace", "status": { "phase": "Active" },
                "metadata": {
                    "name": "default", "uid": uuid::Uuid::new_v4().to_string(), "creationTimestamp": metadata::now(),
                    "labels": { "kubernetes.io/metadata.name": "default" },
                },
            });
            api.store.put("/namespaces/default", Expect::Absent, object.to_string().as_bytes())?;
        }
        Ok(api)
    }

    /// Does a request. A refusal is a reply too.
    pub fn handle(&self, request: &Request) -> Reply {
        let outcome = self.answer(request);
        outcome.unwrap_or_else(|error| Reply::value(error.code, error.to_status()))
    }

    fn answer(&self, request: &Request) -> Result<Reply, ApiError> {
        if let Some(reply) = self.no_pods(request)? {
            return Ok(reply);
        }
        let route =
            Route::parse(&request.path, &self.kinds).map_err(|error| self.explain(&request.path, error))?;
        match &route {
            Route::Health => return Ok(Reply { code: 200, warnings: Vec::new(), body: Body::Text("ok") }),
            Route::Root => {
                return Ok(Reply { code: 302, warnings: Vec::new(), body: Body::Redirect("/console/") });
            }
            Route::Page(path) => return self.page(request, path),
            Route::Login => return self.login(request),
            Route::LoginCode => return self.login_code(request),
            _ => {}
        }
        let identity = self.identify(request)?;
        let query = Query::parse(&request.query)?;
        if let Route::Objects(target) = &route {
            return self.objects(request, &identity, target, &query);
        }
        if let Route::Kept(target, file) = &route {
            return self.kept(request, &identity, target, file);
        }
        if let Route::NodeMetrics(target) = &route {
            return self.node_metrics(request, &identity, target);
        }
        if let Route::Metrics = route {
            return self.metrics(request, &identity);
        }
        if let Route::Join = route {
            return self.join(request, &identity);
        }
        if let Route::AccessReview = route {
            return self.access_review(request, &identity);
        }
        if let Route::WhoAmI = route {
            return Self::who_am_i(request, &identity);
        }
        if request.method != "GET" {
            return Err(ApiError::method_not_allowed(&request.method));
        }
        let value = match &route {
            Route::Version => discovery::version(),
            Route::CoreVersions => discovery::core_versions(),
            Route::Groups => discovery::groups(&self.kinds),
            Route::Group(group) => discovery::group(&self.kinds, group)?,
            Route::Resources { group, version } => discovery::resources(&self.kinds, group, version)?,
            Route::OpenApiIndex => openapi::index(&self.kinds),
            Route::OpenApi { group, version } => openapi::document(&self.kinds, group, version)?,
            Route::Health
            | Route::Join
            | Route::Metrics
            | Route::Root
            | Route::Page(_)
            | Route::Login
            | Route::LoginCode
            | Route::WhoAmI
            | Route::AccessReview
            | Route::Kept(..)
            | Route::NodeMetrics(_)
            | Route::Objects(_) => return Err(ApiError::no_page()),
        };
        Ok(Reply::value(200, value))
    }

    /// How long a conversation may go on that begins with a request: as long as its login, and an hour at most. Clients then come again,
    /// and are asked again who they are.
    pub(crate) fn time_left(&self, request: &Request) -> Duration {
        let now = Timestamp::now();
        let until = self.logins.as_ref().and_then(|logins| logins.until(token_of(request), now));
        let left = until.map(|until| Duration::try_from(until.duration_since(now)).unwrap_or_default());
        // A login that has ended since it was looked at is nobody's any more.
        let is_kept = self.tokens.read().identify(token_of(request)).is_some();
        let left = left.or((!is_kept).then_some(Duration::ZERO));
        left.map_or(CONVERSATION, |left| left.min(CONVERSATION))
    }

    /// Who sent a request.
    pub(crate) fn identify(&self, request: &Request) -> Result<Identity, ApiError> {
        let token = token_of(request);
        let found = self.tokens.read().identify(token);
        let found = found.or_else(|| self.logins.as_ref()?.identify(token, Timestamp::now()));
        found.ok_or_else(|| ApiError::new(401, "Unauthorized", "Unauthorized"))
    }

    fn objects(
        &self,
        request: &Request,
        identity: &Identity,
        target: &Target,
        query: &Query,
    ) -> Result<Reply, ApiError> {
        let verb = match (request.method.as_str(), target.name.is_some()) {
            ("GET", true) => Verb::Get,
            ("GET", false) if query.is_true("watch") => Verb::Watch,
            ("GET", false) => Verb::List,
            ("POST", false) => Verb::Create,
            ("PUT", true) => Verb::Update,
            ("PATCH", true) => Verb::Patch,
            ("DELETE", true) => Verb::Delete,
            ("DELETE", false) => Verb::DeleteCollection,
            (method, _) => return Err(ApiError::method_not_allowed(method)),
        };
        identity.check(verb, target)?;
        if target.kind.is_review {
            return self.review(request, target, verb);
        }
        let outcome = match verb {
            Verb::Get if target.kind.is_secret() => self.get(request, identity, target),
            Verb::Get => return self.get(request, identity, target),
            Verb::List if target.kind.is_secret() => self.list(request, target, query),
            Verb::Watch if target.kind.is_secret() => self.watch(request, target, query),
            Verb::List => return self.list(request, target, query),
            Verb::Watch => return self.watch(request, target, query),
            Verb::Create => self.create(request, identity, target, query),
            Verb::Update | Verb::Patch => self.update(request, identity, target, query),
            Verb::Delete => self.delete(request, target, query),
            Verb::DeleteCollection => self.delete_all(request, target, query),
        };
        // The audit: who wrote what, and read which secrets, with which outcome.
        let name = target.name.as_deref().unwrap_or_default();
        let namespace = target.namespace.as_deref().unwrap_or_default();
        let code = outcome.as_ref().map_or_else(|error| error.code, |reply| reply.code);
        // Other lines about the same object have that.
        let uid = outcome.as_ref().ok().and_then(Reply::uid);
        tracing::info!(
            user = identity.name,
            verb = verb.name(),
            kind = target.kind.names.plural,
            namespace,
            name,
            uid,
            code,
            "{}",
            if matches!(verb, Verb::Get | Verb::List | Verb::Watch) { "read" } else { "write" }
        );
        outcome
    }

    /// `kubectl auth can-i`.
    fn access_review(&self, request: &Request, identity: &Identity) -> Result<Reply, ApiError> {
        if request.method != "POST" {
            return Err(ApiError::method_not_allowed(&request.method));
        }
        let mut review = match protobuf::access_review(&request.body) {
            Some(review) => review,
            None => serde_json::from_slice(&request.body)
                .map_err(|error| ApiError::bad_request(format!("the body is not JSON: {error}")))?,
        };
        if !review.is_object() {
            return Err(ApiError::bad_request("the body is not an object"));
        }
        let asked = &review["spec"]["resourceAttributes"];
        let text = |name: &str| asked[name].as_str().unwrap_or_default();
        let is_asked =
            |kind: &&Arc<Kind>| kind.names.plural == text("resource") && kind.group == text("group");
        let kind = self.kinds.iter().find(is_asked);
        let is_allowed = match (text("verb"), kind) {
            ("*", _) | (_, None) => identity.role == Role::Admin,
            (verb, Some(kind)) => {
                Verb::parse(verb).is_some_and(|verb| may(&identity.role, verb, kind, text("subresource")))
            }
        };
        review["status"] = json!({ "allowed": is_allowed });
        Ok(Reply::value(201, review))
    }
}

/// Whether somebody may do that to objects of a kind, or to a subresource of them; nobody may to one that is not there.
fn may(role: &Role, verb: Verb, kind: &Kind, subresource: &str) -> bool {
    let is_kept =
        kind.files.contains(&subresource) || (kind.names.plural == "nodes" && subresource == "proxy");
    match subresource {
        "" => role.may(verb, kind, false),
        "status" => kind.has_status && role.may(verb, kind, true),
        _ if !is_kept || verb != Verb::Get => false,
        CONSOLE => role.may_converse(),
        _ => role.may_ask_agents(),
    }
}

/// The token of a request; empty where there is none.
fn token_of(request: &Request) -> &str {
    let token = request.authorization.as_deref().and_then(|header| header.strip_prefix("Bearer "));
    token.map(str::trim).unwrap_or_default()
}
