//! Calls to agents, which serve what nodes keep: bounded in time and size, and each failure is a sentence.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::{
    HeaderMap, Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{self, HeaderName},
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use crate::{Agents, ApiError, Calls, Errand, tls::agent_tls_config};

/// How long it may take to reach an agent.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an agent may take to begin its reply: it may look at a machine for some seconds first.
const REPLY: Duration = Duration::from_secs(15);
/// How long the rest of a reply may take.
const BODY: Duration = Duration::from_secs(30);
/// The largest reply, in bytes: the largest report, and some.
const MAX_REPLY: usize = 9 << 20;

/// What agents send. Anything else is bytes, whatever an agent that lies calls it.
const MEDIA_TYPES: [&str; 3] =
    ["text/plain; charset=utf-8", "application/json", "text/plain; version=0.0.4; charset=utf-8"];
const UNKNOWN: &str = "application/octet-stream";

/// A call that is about to be made.
#[derive(Clone)]
pub struct Call {
    pub(crate) errand: Errand,
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    /// Headers of a client that wants to speak WebSocket with the agent.
    pub(crate) web_socket: Option<HeaderMap>,
    /// How long the two may speak.
    pub(crate) lasts: Duration,
    calls: Calls,
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call")
            .field("errand", &self.errand)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// What an agent has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Its media type: one that no browser runs.
    pub media_type: &'static str,
    /// What it is.
    pub bytes: Vec<u8>,
}

impl Call {
    /// A call to the agent of a node, which has said in its Node where it listens.
    ///
    /// # Errors
    /// The Node does not say where, or there are no certificates for calls.
    pub fn new(errand: Errand, node: Option<&Value>, agents: &dyn Agents) -> Result<Self, ApiError> {
        let name = &errand.node;
        let node = node.ok_or_else(|| ApiError::unavailable(format!("there is no node {name} any more")))?;
        let address = address_of(node).ok_or_else(|| {
            ApiError::unavailable(format!(
                "the agent of node {name} does not say where it listens: it is of an older release, or has not begun"
            ))
        })?;
        let tls = agent_tls_config(agents.tls()).map_err(|error| {
            tracing::warn!(%error, "Agents cannot be called");
            ApiError::unavailable(format!("{error}: the log of the control plane says more"))
        })?;
        let calls = agents.calls().clone();
        Ok(Self { errand, address, tls: Arc::new(tls), web_socket: None, lasts: Duration::ZERO, calls })
    }

    /// Fetches all of it.
    ///
    /// # Errors
    /// Too many are being made, or the agent cannot be reached, takes too long, refuses, or sends more than it may.
    pub async fn fetch(&self) -> Result<Fetched, ApiError> {
        let _place = self.calls.enter(&self.errand.node)?;
        let response = self.send().await?;
        let media_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = MEDIA_TYPES.into_iter().find(|known| media_type == Some(*known)).unwrap_or(UNKNOWN);
        let status = response.status();
        let body = timeout(BODY, Limited::new(response.into_body(), MAX_REPLY).collect()).await;
        let body = body.map_err(|_| self.failed("it does not send the rest of its reply"))?;
        let body = body.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
            Some(_) => self.failed(&format!("its reply is longer than {MAX_REPLY} bytes")),
            None => self.failed(&error.to_string()),
        })?;
        let bytes = body.to_bytes().to_vec();
        if status.is_success() {
            return Ok(Fetched { media_type, bytes });
        }
        Err(self.refused(status.as_u16(), &String::from_utf8_lossy(&bytes)))
    }

    /// What the agent refuses with, in its words.
    fn refused(&self, code: u16, said: &str) -> ApiError {
        let said: String = said.trim().chars().take(1000).collect();
        match code {
            404 => ApiError::new(404, "NotFound", said),
            409 => ApiError::new(409, "Conflict", said),
            400 => ApiError::bad_request(said),
            _ => self.failed(&format!("{code}: {said}")),
        }
    }

    /// Sends the request, and returns the head of what comes back.
    pub(crate) async fn send(&self) -> Result<Response<Incoming>, ApiError> {
        let connected = timeout(CONNECT, self.connect()).await;
        let stream = connected
            .map_err(|_| self.failed(&format!("it cannot be reached within {} s", CONNECT.as_secs())))?
            .map_err(|error| self.failed(&error.to_string()))?;
        let asked = async {
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            // It ends with the connection, which ends with what is read from it.
            tokio::spawn(connection.with_upgrades());
            let mut request = Request::new(Empty::<Bytes>::new());
            *request.uri_mut() = self.errand.path.parse().unwrap_or_default();
            if let Some(headers) = &self.web_socket {
                *request.headers_mut() = headers.clone();
            }
            if let Ok(host) = self.errand.node.parse() {
                request.headers_mut().insert(header::HOST, host);
            }
            sender.send_request(request).await
        };
        let response = timeout(REPLY, asked).await;
        response
            .map_err(|_| self.failed(&format!("it does not reply within {} s", REPLY.as_secs())))?
            .map_err(|error: hyper::Error| self.failed(&error.to_string()))
    }

    async fn connect(&self) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let name = ServerName::try_from(self.errand.node.clone()).map_err(io::Error::other)?;
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        TlsConnector::from(self.tls.clone()).connect(name, stream).await
    }

    /// The refusal of a request that the agent did not do.
    pub(crate) fn failed(&self, why: &str) -> ApiError {
        ApiError::unavailable(format!(
            "the agent of node {} at {} does not do it: {why}",
            self.errand.node, self.address
        ))
    }

    /// What an agent says that does not want to speak WebSocket.
    pub(crate) async fn refusal(&self, response: Response<Incoming>) -> ApiError {
        let code = response.status().as_u16();
        match timeout(BODY, Limited::new(response.into_body(), MAX_REPLY).collect()).await {
            Ok(Ok(body)) => self.refused(code, &String::from_utf8_lossy(&body.to_bytes())),
            _ => self.failed(&format!("it says {code}")),
        }
    }
}

/// Headers that make a WebSocket, as far as they are passed on in either direction.
pub(crate) const WEB_SOCKET_HEADERS: [HeaderName; 6] = [
    header::CONNECTION,
    header::UPGRADE,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_ACCEPT,
    header::SEC_WEBSOCKET_PROTOCOL,
];

/// Where the agent of a node listens, by its Node.
fn address_of(node: &Value) -> Option<SocketAddr> {
    let addresses = node["status"]["addresses"].as_array()?;
    let internal = addresses.iter().find(|address| address["type"] == "InternalIP")?;
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64()?;
    let port = u16::try_from(port).ok().filter(|port| *port > 0)?;
    Some(SocketAddr::new(internal["address"].as_str()?.parse().ok()?, port))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_says_where_its_agent_listens_or_it_is_not_called() {
        let node = |address: &str, port: u64| {
            json!({ "status": {
                "addresses": [{ "type": "Hostname", "address": "x" }, { "type": "InternalIP", "address": address }],
                "daemonEndpoints": { "kubeletEndpoint": { "Port": port } },
            } })
        };
        assert_eq!(address_of(&node("10.0.0.1", 16444)), Some("10.0.0.1:16444".parse().unwrap()));
        for wrong in [node("host", 1), node("10.0.0.1", 0), node("10.0.0.1", 65536), json!({})] {
            assert_eq!(address_of(&wrong), None, "{wrong}");
        }
    }
}
