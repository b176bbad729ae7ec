//! The console where the objects are another server's: its files come from here, and what it asks goes on to that server as it came, as whoever asks. This
//! has no rights of its own, and keeps nothing.

use std::{io, path::Path, sync::Arc, time::Duration};

use hyper::{
    HeaderMap, Request, Response, Uri,
    body::Incoming,
    client::conn::http1,
    header::{self, HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use crate::{
    ApiError, Reply,
    api::Body,
    pages::Pages,
    tls::{TlsError, client_tls_config},
};

/// How long it may take to reach the server.
const CONNECT: Duration = Duration::from_secs(10);
/// How long the server may take to begin its reply: a list of Kubernetes may take a minute.
const REPLY: Duration = Duration::from_secs(70);

/// Headers of a request that the server needs to know.
const ASKED: [HeaderName; 4] =
    [header::ACCEPT, header::AUTHORIZATION, header::CONTENT_TYPE, header::USER_AGENT];
/// Headers of a reply that the client needs to know. The time is among them: a browser's clock may be wrong.
const TOLD: [HeaderName; 4] = [header::CONTENT_TYPE, header::DATE, header::RETRY_AFTER, header::WARNING];

/// Why there can be no gateway.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayError {
    /// The address of the server is none.
    #[error("'{0}' is no address of an API server: it is like https://HOST:PORT")]
    Address(String),
    /// Whom to trust cannot be read.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Serves the console, and passes on what it asks.
#[derive(Clone)]
pub struct Gateway {
    pages: Pages,
    host: String,
    port: u16,
    name: ServerName<'static>,
    tls: Arc<ClientConfig>,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}

/// What is sent back.
pub(crate) enum Answer {
    /// It is from here.
    Own(Reply),
    /// It is the server's, as it comes.
    Forwarded(Response<Incoming>),
}

impl Gateway {
    /// The console's files, and the API server at `server` (`https://HOST:PORT`), whose certificate one of the authorities in a file has issued.
    ///
    /// # Errors
    /// The address is none, or the file holds no authority.
    pub fn new(
        files: &'static [(&'static str, &'static [u8])],
        server: &str,
        authorities: &Path,
    ) -> Result<Self, GatewayError> {
        let wrong = || GatewayError::Address(server.to_owned());
        let uri: Uri = server.parse().map_err(|_| wrong())?;
        let is_bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
        let host = uri.host().filter(|_| uri.scheme_str() == Some("https") && is_bare).ok_or_else(wrong)?;
        let host = host.trim_matches(['[', ']']).to_owned();
        Ok(Self {
            pages: Pages { files: files.iter().copied().collect() },
            port: uri.port_u16().unwrap_or(443),
            name: ServerName::try_from(host.clone()).map_err(|_| wrong())?,
            host,
            tls: Arc::new(client_tls_config(authorities)?),
        })
    }

    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Result<Answer, ApiError> {
        let path = request.uri().path();
        let own = |body| Ok(Answer::Own(Reply { code: 200, warnings: Vec::new(), body }));
        match path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_start_matches('/'), "")) {
            ("", _) => {
                Ok(Answer::Own(Reply { code: 302, warnings: Vec::new(), body: Body::Redirect("/console/") }))
            }
            ("healthz" | "livez" | "readyz", _) => own(Body::Text("ok")),
            // Nobody logs in here: one has a token.
            ("console", "code" | "session") => Err(ApiError::no_page()),
            ("console", file) => {
                if request.method() != "GET" && request.method() != "HEAD" {
                    return Err(ApiError::method_not_allowed(request.method().as_str()));
                }
                let accepts =
                    request.headers().get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
                let accepts_gzip = accepts.unwrap_or_default().split(',').any(|one| one.trim() == "gzip");
                own(Body::File(self.pages.find(file, accepts_gzip).ok_or_else(ApiError::no_page)?))
            }
            ("api" | "apis" | "version", _) => Ok(Answer::Forwarded(self.forward(request).await?)),
            _ => Err(ApiError::no_page()),
        }
    }

    async fn forward(&self, request: Request<Incoming>) -> Result<Response<Incoming>, ApiError> {
        let stream = timeout(CONNECT, self.connect()).await;
        let stream = stream
            .map_err(|_| self.failed(&format!("it cannot be reached within {} s", CONNECT.as_secs())))?
            .map_err(|error| self.failed(&error.to_string()))?;
        let asked = async {
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            // It ends with the connection, which ends with what is read from it.
            tokio::spawn(connection);
            sender.send_request(self.as_asked(request)).await
        };
        let response = timeout(REPLY, asked).await;
        let response = response
            .map_err(|_| self.failed(&format!("it does not reply within {} s", REPLY.as_secs())))?
            .map_err(|error: hyper::Error| self.failed(&error.to_string()))?;
        let (mut head, body) = response.into_parts();
        head.headers = of(&head.headers, &TOLD);
        head.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        head.headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        Ok(Response::from_parts(head, body))
    }

    /// The request, as the server is to see it.
    fn as_asked(&self, request: Request<Incoming>) -> Request<Incoming> {
        let (head, body) = request.into_parts();
        let mut asked = Request::new(body);
        *asked.method_mut() = head.method;
        *asked.headers_mut() = of(&head.headers, &ASKED);
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        *asked.uri_mut() = path.parse().unwrap_or_default();
        if let Ok(host) = format!("{}:{}", self.host, self.port).parse() {
            asked.headers_mut().insert(header::HOST, host);
        }
        asked
    }

    async fn connect(&self) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        TlsConnector::from(self.tls.clone()).connect(self.name.clone(), stream).await
    }

    fn failed(&self, why: &str) -> ApiError {
        ApiError::unavailable(format!("the API server at {}:{} does not do it: {why}", self.host, self.port))
    }
}

fn of(headers: &HeaderMap, names: &[HeaderName]) -> HeaderMap {
    let of_name = |name: &HeaderName| {
        headers.get_all(name).iter().map(|value| (name.clone(), value.clone())).collect::<Vec<_>>()
    };
    names.iter().flat_map(of_name).collect()
}

#[cfg(test)]
mod tests {
    use authority::Authority;

    use super::*;

    #[test]
    fn what_is_no_address_is_refused_by_name() {
        let place = tempfile::tempdir().unwrap();
        Authority::init(&place.path().join("ca"), "test").unwrap();
        let authority = place.path().join("ca/ca-cert.pem");
        for right in ["https://kubernetes.default.svc", "https://10.0.0.1:6443/", "https://[::1]:6443"] {
            Gateway::new(&[], right, &authority).unwrap();
        }
        for wrong in ["", "kubernetes", "http://a", "https://a/path", "https://a?x=y", "https://"] {
            let error = Gateway::new(&[], wrong, &authority).unwrap_err().to_string();
            assert!(error.contains("is no address"), "{wrong}: {error}");
        }
        Gateway::new(&[], "https://a", &place.path().join("none")).unwrap_err();
    }
}
