//! HTTP/1.1 and HTTP/2 over TLS around [`Api`]: what is read is bounded in size and time, and requests are done on threads that may wait for the disk.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http_body_util::{BodyExt, Limited};
use hyper::{
    HeaderMap, StatusCode,
    body::{Body as HttpBody, Bytes, Frame, Incoming},
    header::{self, HeaderName, HeaderValue},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    task,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    Api, ApiError, Gateway, Reply,
    api::{Body, Request},
    gateway::Answer,
    tls::HTTP2,
    tunnel::Tunnels,
    watch, web_socket,
};

/// The largest body of a request, in bytes: an object of 1 MiB, and room for how it is written.
const MAX_BODY: usize = 3 << 20;
/// Connections at a time.
const MAX_CONNECTIONS: usize = 2000;
/// Requests and watches at a time on one connection of HTTP/2.
const MAX_STREAMS: u32 = 100;
/// What a handshake, the head of a request, and its body may take each.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pieces of a watch that wait for a client: one being sent, and the next.
const PIECES: usize = 1;
/// How often is looked for events that are old.
const EXPIRE: Duration = Duration::from_secs(60);
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    acceptor: TlsAcceptorOf,
    work: Work,
}

/// Who does requests.
#[derive(Clone, Debug)]
enum Work {
    Api(Arc<Api>, Tunnels),
    Gateway(Arc<Gateway>),
}

struct TlsAcceptorOf(TlsAcceptor);

impl std::fmt::Debug for TlsAcceptorOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsAcceptor")
    }
}

impl Server {
    /// A server on a socket that listens. To be called where a runtime is.
    ///
    /// # Errors
    /// The socket cannot be used.
    pub fn new(listener: std::net::TcpListener, tls: ServerConfig, api: Arc<Api>) -> io::Result<Self> {
        Self::of(listener, tls, Work::Api(api, Tunnels::default()))
    }

    /// A server for the console of another one's objects. To be called where a runtime is.
    ///
    /// # Errors
    /// The socket cannot be used.
    pub fn gateway(listener: std::net::TcpListener, tls: ServerConfig, gateway: Gateway) -> io::Result<Self> {
        Self::of(listener, tls, Work::Gateway(Arc::new(gateway)))
    }

    fn of(listener: std::net::TcpListener, tls: ServerConfig, work: Work) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        Ok(Self { listener, acceptor: TlsAcceptorOf(TlsAcceptor::from(Arc::new(tls))), work })
    }

    /// Serves until it is dropped.
    pub async fn run(self) {
        tokio::join!(self.serve(), self.expire());
    }

    /// Looks for events that are old.
    async fn expire(&self) {
        let Work::Api(api, _) = &self.work else { return };
        loop {
            tokio::time::sleep(EXPIRE).await;
            let api = api.clone();
            // A panic there is said by the thread, and is no reason to stop serving.
            let _ = task::spawn_blocking(move || api.expire(jiff::Timestamp::now())).await;
        }
    }

    async fn serve(&self) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                // No descriptors, for example: others may give some back.
                Err(error) => {
                    tracing::warn!(%error, "Cannot accept a connection");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                    continue;
                }
            };
            let (work, acceptor) = (self.work.clone(), self.acceptor.0.clone());
            tokio::spawn(async move {
                connection(stream, &acceptor, work).await;
                drop(place);
            });
        }
    }
}

async fn connection(stream: TcpStream, acceptor: &TlsAcceptor, work: Work) {
    // Small writes follow each other: events of watches.
    let _ = stream.set_nodelay(true);
    let Ok(Ok(stream)) = timeout(PATIENCE, acceptor.accept(stream)).await else { return };
    let service = service_fn(move |request| {
        let work = work.clone();
        async move {
            Ok::<_, Infallible>(match work {
                Work::Api(api, tunnels) => respond(request, api, &tunnels).await,
                Work::Gateway(gateway) => pass_on(request, &gateway).await,
            })
        }
    });
    // Browsers open six connections to a server and no more, and each watch would take one for itself.
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(HTTP2);
    let stream = TokioIo::new(stream);
    let outcome = if is_http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).max_concurrent_streams(MAX_STREAMS);
        builder.keep_alive_interval(PATIENCE).keep_alive_timeout(PATIENCE);
        builder.serve_connection(stream, service).await
    } else {
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
        builder.serve_connection(stream, service).with_upgrades().await
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "A connection ended badly");
    }
}

async fn pass_on(request: hyper::Request<Incoming>, gateway: &Gateway) -> hyper::Response<ReplyBody> {
    let reply = match gateway.answer(request).await {
        Ok(Answer::Forwarded(response)) => return response.map(ReplyBody::Forwarded),
        Ok(Answer::Own(reply)) => reply,
        Err(error) => refusal(&error),
    };
    head_of(reply).0
}

async fn respond(
    mut request: hyper::Request<Incoming>,
    api: Arc<Api>,
    tunnels: &Tunnels,
) -> hyper::Response<ReplyBody> {
    let upgrade = hyper::upgrade::on(&mut request);
    let reply = match read(request).await {
        // A request that is done changes something: it goes on even if the client does not wait.
        Ok(request) => task::spawn_blocking(move || api.handle(&request)).await.unwrap_or_else(|_| {
            refusal(&ApiError::internal("the request could not be done; the log has more"))
        }),
        Err(error) => refusal(&error),
    };
    let reply = match reply.body {
        Body::Call(call) if call.web_socket.is_some() => match tunnels.open(call, upgrade).await {
            Ok(response) => return response,
            Err(error) => refusal(&error),
        },
        Body::Call(call) => match call.fetch().await {
            Ok(fetched) => Reply { code: 200, warnings: Vec::new(), body: Body::Fetched(fetched) },
            Err(error) => refusal(&error),
        },
        body => Reply { body, ..reply },
    };
    let (mut response, watch) = head_of(reply);
    if let Some(watch) = watch {
        let (out, pieces) = mpsc::channel(PIECES);
        tokio::spawn(watch::run(watch, out));
        *response.body_mut() = ReplyBody::Pieces(pieces);
    }
    response
}

/// The request with its body.
async fn read(request: hyper::Request<Incoming>) -> Result<Request, ApiError> {
    let (head, body) = request.into_parts();
    let text = |name: HeaderName, headers: &HeaderMap| {
        headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    let body = timeout(PATIENCE, Limited::new(body, MAX_BODY).collect()).await;
    let body = body.map_err(|_| ApiError::new(408, "Timeout", "the body did not come in time"))?;
    let body = body.map_err(|error| match error.downcast_ref::<http_body_util::LengthLimitError>() {
        Some(_) => {
            ApiError::new(413, "RequestEntityTooLarge", format!("the body is longer than {MAX_BODY} bytes"))
        }
        None => ApiError::bad_request("the body did not come whole"),
    })?;
    let authorization = text(header::AUTHORIZATION, &head.headers);
    let (web_socket, bearer) = web_socket::read(&head.headers);
    let authorization = if authorization.is_empty() { bearer.unwrap_or_default() } else { authorization };
    Ok(Request {
        web_socket,
        method: head.method.as_str().to_owned(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        accept: text(header::ACCEPT, &head.headers),
        accept_encoding: text(header::ACCEPT_ENCODING, &head.headers),
        content_type: text(header::CONTENT_TYPE, &head.headers),
        authorization: Some(authorization).filter(|header| !header.is_empty()),
        body: body.to_bytes().to_vec(),
    })
}

type Headed = (hyper::Response<ReplyBody>, Option<watch::Watch>);

fn refusal(error: &ApiError) -> Reply {
    Reply::value(error.code, error.to_status())
}

fn head_of(reply: Reply) -> Headed {
    let mut more = vec![("x-content-type-options", "nosniff")];
    let (media_type, bytes, watch) = match reply.body {
        Body::Value(value) => ("application/json", Bytes::from(value.to_string()), None),
        Body::Json(text) => ("application/json", Bytes::from(text), None),
        Body::Text(text) => ("text/plain", Bytes::from(text), None),
        Body::Watch(watch) => ("application/json", Bytes::new(), Some(watch)),
        Body::Fetched(fetched) => (fetched.media_type, Bytes::from(fetched.bytes), None),
        // A call was made before there is a head of its reply.
        Body::Call(_) => ("text/plain", Bytes::new(), None),
        Body::Redirect(place) => {
            more.push(("location", place));
            ("text/plain", Bytes::new(), None)
        }
        Body::File(file) => {
            more.extend(file.headers());
            (file.media_type, Bytes::from_static(file.bytes), None)
        }
    };
    if reply.code == 429 {
        more.push(("retry-after", "1"));
    }
    // What is not a file is as of now.
    if !more.iter().any(|(name, _)| *name == "cache-control") {
        more.push(("cache-control", "no-store"));
    }
    let mut response = hyper::Response::new(ReplyBody::Whole(Some(bytes)));
    *response.status_mut() = StatusCode::from_u16(reply.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    for (name, value) in more {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    for warning in &reply.warnings {
        if let Ok(value) = HeaderValue::from_str(&format!("299 - {}", quoted(warning))) {
            headers.append(header::WARNING, value);
        }
    }
    (response, watch)
}

/// As a quoted string of HTTP (RFC 9110, section 5.6.4), of letters that headers can have.
fn quoted(text: &str) -> String {
    let letters = text.chars().take(1000).map(|letter| if letter.is_ascii_graphic() { letter } else { ' ' });
    let escaped =
        letters.flat_map(|letter| matches!(letter, '"' | '\\').then_some('\\').into_iter().chain([letter]));
    format!("\"{}\"", escaped.collect::<String>())
}

/// The body of a reply: whole, or piece by piece as it comes.
enum ReplyBody {
    Whole(Option<Bytes>),
    Pieces(mpsc::Receiver<Bytes>),
    /// As another server sends it.
    Forwarded(Incoming),
}

impl Default for ReplyBody {
    fn default() -> Self {
        Self::Whole(None)
    }
}

impl HttpBody for ReplyBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Pieces(pieces) => {
                pieces.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
            }
            Self::Forwarded(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match self {
            Self::Whole(bytes) => {
                hyper::body::SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Pieces(_) => hyper::body::SizeHint::default(),
            Self::Forwarded(body) => body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_quoted_strings() {
        assert_eq!(quoted("unknown field \"a\\b\"\nü"), "\"unknown field \\\"a\\\\b\\\"  \"");
    }
}
