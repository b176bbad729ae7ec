//! The way into the console: its files, and how people log in.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    Api, ApiError, Identity, Reply,
    api::{Body, Request},
    login::{Logins, name_of},
    pages::Pages,
};

impl Api {
    /// This API, into whose console people can log in. Tokens are signed with the secret: where it is the same, those of an earlier run count.
    #[must_use]
    pub fn with_logins(self, secret: &[u8]) -> Self {
        Self { logins: Some(Logins::new(secret)), ..self }
    }

    /// The path of the console with a code that is good for one login as that identity.
    ///
    /// # Errors
    /// There is no console, or that identity is no person's.
    pub fn login_path(&self, identity: &Identity) -> Result<String, ApiError> {
        let logins = self.logins.as_ref().ok_or_else(ApiError::no_page)?;
        if name_of(&identity.role).is_none() {
            return Err(ApiError::forbidden(&identity.name, "cannot log in: it is no person"));
        }
        let code = logins.code(identity, Timestamp::now());
        let code = code.ok_or_else(|| ApiError::internal("there are no random numbers"))?;
        // What follows '#' is never sent to a server, and so in no log of one.
        Ok(format!("/console/#login={code}"))
    }

    /// `POST /console/code`: an address to log in with, for whoever has a token already.
    pub(crate) fn login_code(&self, request: &Request) -> Result<Reply, ApiError> {
        only_post(request)?;
        let identity = self.identify(request)?;
        Ok(Reply::value(201, json!({ "path": self.login_path(&identity)? })))
    }

    /// `POST /console/session`: a code becomes a token.
    pub(crate) fn login(&self, request: &Request) -> Result<Reply, ApiError> {
        only_post(request)?;
        let logins = self.logins.as_ref().ok_or_else(ApiError::no_page)?;
        let asked: Value = serde_json::from_slice(&request.body)
            .map_err(|error| ApiError::bad_request(format!("the body is not JSON: {error}")))?;
        let now = Timestamp::now();
        let identity = logins.redeem(asked["code"].as_str().unwrap_or_default(), now).ok_or_else(|| {
            ApiError::new(401, "Unauthorized", "this code was used already, or is older than 10 minutes")
        })?;
        let given = logins.token(&identity, now);
        let (token, until) = given.ok_or_else(|| ApiError::internal("there is no such time"))?;
        tracing::info!(user = identity.name, "login");
        Ok(Reply::value(201, json!({ "token": token, "expirationTimestamp": format!("{until:.0}") })))
    }

    /// `kubectl auth whoami`.
    pub(crate) fn who_am_i(request: &Request, identity: &Identity) -> Result<Reply, ApiError> {
        only_post(request)?;
        let groups: Vec<_> =
            name_of(&identity.role).map(|role| format!("whimbrel:{role}")).into_iter().collect();
        Ok(Reply::value(
            201,
            json!({
                "kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1", "metadata": {},
                "status": { "userInfo": { "username": identity.name, "groups": groups } },
            }),
        ))
    }

    /// This API, with a console below `/console/`: its files by their paths. One whose name ends in `.gz` is the one without it, compressed.
    #[must_use]
    pub fn with_pages(self, files: &'static [(&'static str, &'static [u8])]) -> Self {
        Self { pages: Pages { files: files.iter().copied().collect() }, ..self }
    }

    /// A file of the console.
    pub(crate) fn page(&self, request: &Request, path: &str) -> Result<Reply, ApiError> {
        if request.method != "GET" && request.method != "HEAD" {
            return Err(ApiError::method_not_allowed(&request.method));
        }
        let accepts_gzip = request.accept_encoding.split(',').any(|one| one.trim() == "gzip");
        let file = self.pages.find(path, accepts_gzip).ok_or_else(ApiError::no_page)?;
        Ok(Reply { code: 200, warnings: Vec::new(), body: Body::File(file) })
    }
}

fn only_post(request: &Request) -> Result<(), ApiError> {
    if request.method == "POST" { Ok(()) } else { Err(ApiError::method_not_allowed(&request.method)) }
}
