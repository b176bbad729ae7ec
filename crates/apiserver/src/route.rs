//! What an address means.

use std::{borrow::Cow, sync::Arc};

use objects::{Kind, Scope};

use crate::ApiError;

/// What is asked for by a path.
#[derive(Clone, Debug)]
pub(crate) enum Route {
    /// Whether the server is well.
    Health,
    /// Which version it is.
    Version,
    /// The versions of the core: `/api`.
    CoreVersions,
    /// The groups: `/apis`.
    Groups,
    /// One group: `/apis/GROUP`.
    Group(String),
    /// The resources of a group and version.
    Resources {
        /// Empty for the core.
        group: String,
        /// The version.
        version: String,
    },
    /// The list of schemas.
    OpenApiIndex,
    /// The schemas of a group and version.
    OpenApi {
        /// Empty for the core.
        group: String,
        /// The version.
        version: String,
    },
    /// A host wants to be a node.
    Join,
    /// Figures for Prometheus.
    Metrics,
    /// The console begins at another address.
    Root,
    /// A file of the console, by its path.
    Page(String),
    /// Somebody who may come in wants an address to log in with.
    LoginCode,
    /// Somebody logs in.
    Login,
    /// Who am I?
    WhoAmI,
    /// May I …?
    AccessReview,
    /// What a node has of an object, by the name of the subresource.
    Kept(Target, String),
    /// The figures of a node's agent.
    NodeMetrics(Target),
    /// Objects.
    Objects(Target),
}

/// Objects that a path names.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Of which kind.
    pub(crate) kind: Arc<Kind>,
    /// In which namespace; `None`: in all, or of a kind without.
    pub(crate) namespace: Option<String>,
    /// Which one; `None`: all.
    pub(crate) name: Option<String>,
    /// Whether its status alone is meant.
    pub(crate) is_status: bool,
}

impl Target {
    /// What keys of such objects begin with; for one object, its key.
    pub(crate) fn key(&self) -> String {
        let prefix = format!("{}/{}/", self.kind.group, self.kind.names.plural);
        match (self.kind.scope, &self.namespace, &self.name) {
            (Scope::Namespaced, None, _) | (Scope::Cluster, _, None) => prefix,
            (Scope::Namespaced, Some(namespace), None) => format!("{prefix}{namespace}/"),
            (Scope::Namespaced, Some(namespace), Some(name)) => format!("{prefix}{namespace}/{name}"),
            (Scope::Cluster, _, Some(name)) => format!("{prefix}{name}"),
        }
    }
}

impl Route {
    pub(crate) fn parse(path: &str, kinds: &[Arc<Kind>]) -> Result<Self, ApiError> {
        let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty()).map(decode).collect();
        let parts = parts.iter().map(|part| part.as_deref().ok_or_else(ApiError::no_page));
        let parts = parts.collect::<Result<Vec<&str>, _>>()?;
        Ok(match *parts.as_slice() {
            ["healthz" | "livez" | "readyz", ..] => Self::Health,
            ["join"] => Self::Join,
            ["metrics"] => Self::Metrics,
            [] => Self::Root,
            ["console", "code"] => Self::LoginCode,
            ["console", "session"] => Self::Login,
            ["console", ref rest @ ..] => Self::Page(rest.join("/")),
            ["version"] => Self::Version,
            ["api"] => Self::CoreVersions,
            ["apis"] => Self::Groups,
            ["apis", group] => Self::Group(group.to_owned()),
            ["openapi", "v3"] => Self::OpenApiIndex,
            ["openapi", "v3", "api", version] => {
                Self::OpenApi { group: String::new(), version: version.to_owned() }
            }
            ["openapi", "v3", "apis", group, version] => {
                Self::OpenApi { group: group.to_owned(), version: version.to_owned() }
            }
            ["apis", "authorization.k8s.io", "v1", "selfsubjectaccessreviews"] => Self::AccessReview,
            ["apis", "authentication.k8s.io", "v1", "selfsubjectreviews"] => Self::WhoAmI,
            ["api", version] => Self::Resources { group: String::new(), version: version.to_owned() },
            ["apis", group, version] => {
                Self::Resources { group: group.to_owned(), version: version.to_owned() }
            }
            ["api", version, ref rest @ ..] => objects("", version, rest, kinds)?,
            ["apis", group, version, ref rest @ ..] => objects(group, version, rest, kinds)?,
            _ => return Err(ApiError::no_page()),
        })
    }
}

fn objects(group: &str, version: &str, rest: &[&str], kinds: &[Arc<Kind>]) -> Result<Route, ApiError> {
    let kind = |plural: &str| {
        let is_it =
            |kind: &&Arc<Kind>| kind.group == group && kind.version == version && kind.names.plural == plural;
        kinds.iter().find(is_it).cloned().ok_or_else(ApiError::no_page)
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() && rest != ["status"] => {
            (Some((*namespace).to_owned()), rest)
        }
        rest => (None, rest),
    };
    let (plural, name, sub) = match rest {
        [plural] => (*plural, None, None),
        [plural, name] => (*plural, Some((*name).to_owned()), None),
        [plural, name, sub] => (*plural, Some((*name).to_owned()), Some(*sub)),
        ["nodes", name, "proxy", "metrics"] if group.is_empty() && namespace.is_none() => {
            let name = Some((*name).to_owned());
            let kind = kind("nodes")?;
            return Ok(Route::NodeMetrics(Target { kind, namespace, name, is_status: false }));
        }
        _ => return Err(ApiError::no_page()),
    };
    let kind = kind(plural)?;
    let is_misplaced = match kind.scope {
        Scope::Namespaced => name.is_some() && namespace.is_none(),
        Scope::Cluster => namespace.is_some(),
    };
    let is_status = sub == Some("status");
    if let Some(file) = sub.filter(|file| kind.files.contains(file) && !is_misplaced) {
        return Ok(Route::Kept(Target { kind, namespace, name, is_status: false }, file.to_owned()));
    }
    if is_misplaced || (sub.is_some() && !(is_status && kind.has_status)) {
        return Err(ApiError::no_page());
    }
    Ok(Route::Objects(Target { kind, namespace, name, is_status }))
}

/// A part of a path or of a query without its percent signs. `None` if they are wrong, or what is behind them is not text.
pub(crate) fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(text.into());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
            let (high, low) = (digit(rest.next())?, digit(rest.next())?);
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

/// The parameters of a query. One that is given twice counts as it was given first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    pub(crate) fn parse(query: &str) -> Result<Self, ApiError> {
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decoded = decode(key).zip(decode(&value.replace('+', " ")).map(Cow::into_owned));
            decoded.map(|(key, value)| (key.into_owned(), value))
        });
        let pairs = pairs.collect::<Option<_>>();
        Ok(Self { pairs: pairs.ok_or_else(|| ApiError::bad_request("the query is not UTF-8"))? })
    }

    /// The value of a parameter that is there and not empty.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// Whether a parameter is true.
    pub(crate) fn is_true(&self, key: &str) -> bool {
        matches!(self.get(key), Some("true" | "1"))
    }

    /// A parameter that is a number.
    pub(crate) fn number(&self, key: &str) -> Result<Option<u64>, ApiError> {
        let number = self.get(key).map(str::parse).transpose();
        number.map_err(|_| ApiError::bad_request(format!("{key} must be a number")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(path: &str) -> Result<Route, ApiError> {
        Route::parse(path, &objects::kinds().into_iter().map(Arc::new).collect::<Vec<_>>())
    }

    fn key(path: &str) -> String {
        match parse(path) {
            Ok(Route::Objects(target)) => target.key(),
            other => panic!("{path} is {other:?}"),
        }
    }

    #[test]
    fn paths_name_objects_as_in_kubernetes() {
        assert_eq!(key("/api/v1/nodes/a"), "/nodes/a");
        assert_eq!(key("/api/v1/namespaces/default"), "/namespaces/default");
        assert_eq!(key("/api/v1/namespaces/default/events"), "/events/default/");
        let base = "/apis/whimbrel.dev/v1";
        assert_eq!(key(&format!("{base}/virtualmachines")), "whimbrel.dev/virtualmachines/");
        let one = format!("{base}/namespaces/x/virtualmachines/busy/status");
        assert_eq!(key(&one), "whimbrel.dev/virtualmachines/x/busy");
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        for path in [
            "/api/v1/pods",
            "/api/v2/nodes",
            "/apis/whimbrel.dev/v1/virtualmachines/busy",
            "/api/v1/namespaces/x/nodes/a",
            "/api/v1/nodes/a/proxy/pods",
            "/api/v1/namespaces/x/nodes/a/proxy/metrics",
            "/api/v1/namespaces/x/events/a/log",
            "/api/v1/namespaces/x/events/a/b/c",
            "/api/v1/nodes/%zz",
            "/api/v1/nodes/%ff",
        ] {
            assert_eq!(parse(path).unwrap_err().code, 404, "{path}");
        }
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("labelSelector=a%3Db%2Cc&limit=5&watch=true&x").unwrap();
        assert_eq!(query.get("labelSelector"), Some("a=b,c"));
        assert_eq!(
            (query.number("limit"), query.is_true("watch"), query.get("x")),
            (Ok(Some(5)), true, None)
        );
        assert!(Query::parse("a=%").is_err());
        assert!(query.number("labelSelector").is_err());
    }
}
