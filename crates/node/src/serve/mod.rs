//! What an agent serves, as a kubelet does: what its node keeps of machines, forecasts, consoles and its own figures.
//!
//! HTTP/1.1 over TLS in which both sides show certificates of the fleet's authority. Only the control plane may come ([`tls`]); it lets
//! people through by their roles. Everything is bounded: connections, times, and what is sent.
//!
//! | path | what it is |
//! |---|---|
//! | `/vmms/VMM/log` | the end of the serial log |
//! | `/vmms/VMM/report?session=ID` | the engine's report of a migration |
//! | `/vmms/VMM/forecast?bandwidth=N,…` | what migrations would be like ([`forecast`]) |
//! | `/vmms/VMM/metrics?dirty=true` | counters of what the machine uses; how fast it writes, where that is asked for ([`usage`]) |
//! | `/vmms/VMM/console` | a WebSocket to the serial port ([`console`]) |
//! | `/metrics` | the agent's figures ([`figures`]) |

mod console;
mod desk;
mod figures;
mod forecast;
mod foretold;
mod tls;

use std::{collections::VecDeque, convert::Infallible, io, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::{self, AbortHandle},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    kept,
    usage::{UsageError, usage},
};

pub(crate) use desk::Desk;

/// Connections of the control plane at a time. Consoles are not among them, once they are open: there is one for each VMM at most.
const MAX_CONNECTIONS: usize = 128;
/// Handshakes at a time, of whoever comes. One more ends the oldest of them.
const MAX_HANDSHAKES: usize = 64;
/// How long a request may take with its reply. What it takes until a console begins counts, and no more.
const REQUEST: Duration = Duration::from_secs(60);
/// What a handshake and the head of a request may take each.
const PATIENCE: Duration = Duration::from_secs(10);
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// How much of a serial log is sent, in bytes: its end.
const TAIL: u64 = 64 << 10;

/// Why something is not sent: a code of HTTP, and a sentence for whoever asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    code: StatusCode,
    why: String,
}

impl Refusal {
    fn new(code: StatusCode, why: impl Into<String>) -> Self {
        Self { code, why: why.into() }
    }

    fn not_found(why: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, why)
    }
}

type Reply = Response<Full<Bytes>>;

/// Serves for ever.
pub(crate) async fn serve(listener: std::net::TcpListener, desk: Arc<Desk>) {
    let listener = match listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener)) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "The agent cannot listen: logs, consoles and forecasts are not to be had");
            return;
        }
    };
    let mut entering = VecDeque::<AbortHandle>::new();
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let identity = Arc::new(tls::Identity::new(desk.tls()));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                entering.retain(|one| !one.is_finished());
                // Who may come is in within moments: whoever has been at it for longest makes room.
                if entering.len() >= MAX_HANDSHAKES
                    && let Some(oldest) = entering.pop_front()
                {
                    oldest.abort();
                }
                let (desk, places, identity) = (desk.clone(), places.clone(), identity.clone());
                let enters = task::spawn(async move {
                    if let Some(stream) = enter(stream, &identity).await {
                        task::spawn(async move {
                            if let Ok(_place) = places.acquire().await {
                                connection(stream, desk).await;
                            }
                        });
                    }
                });
                entering.push_back(enters.abort_handle());
            }
            // No descriptors, for example: others may give some back.
            Err(error) => {
                tracing::warn!(%error, "Cannot accept a connection");
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

/// Serves figures for ever, and nothing else, to whoever comes and without encryption.
pub(crate) async fn serve_figures(listener: std::net::TcpListener, desk: Arc<Desk>) {
    let error = scrape::serve(listener, move |_| (figures::TYPE, figures::text(&desk))).await;
    tracing::error!(%error, "The agent cannot listen: its figures are not to be had");
}

/// The control plane, if it is that which comes. Nobody else gets a word.
async fn enter(stream: TcpStream, identity: &Arc<tls::Identity>) -> Option<TlsStream<TcpStream>> {
    // Keys that are pressed are small and many.
    let _ = stream.set_nodelay(true);
    let identity = identity.clone();
    let config = match task::spawn_blocking(move || identity.config()).await.ok()? {
        Ok(config) => config,
        Err(error) => {
            tracing::warn!(%error, "The agent has no certificate to show");
            return None;
        }
    };
    let stream = timeout(PATIENCE, TlsAcceptor::from(config).accept(stream)).await.ok()?.ok()?;
    tls::is_control_plane(stream.get_ref().1.peer_certificates()).then_some(stream)
}

/// One request, and a console if it asks for one.
async fn connection(stream: TlsStream<TcpStream>, desk: Arc<Desk>) {
    let service = service_fn(move |request| {
        let desk = desk.clone();
        async move { Ok::<_, Infallible>(respond(request, desk).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(PATIENCE).keep_alive(false);
    let served = timeout(REQUEST, builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
    match served.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "A connection ended badly"),
        Err(_) => tracing::debug!("A request took longer than it may"),
    }
}

async fn respond(mut request: Request<Incoming>, desk: Arc<Desk>) -> Reply {
    if request.method() != hyper::Method::GET {
        return refused(&Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "only GET is done here"));
    }
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let parts: Vec<_> = path.split('/').skip(1).collect();
    let outcome = match *parts.as_slice() {
        ["vmms", vmm, "console"] => console::open(&mut request, &desk, vmm, &query).await,
        ["vmms", vmm, what @ ("log" | "report" | "metrics" | "forecast")] => {
            let (vmm, what) = (vmm.to_owned(), what.to_owned());
            on_a_thread(move || read(&desk, &vmm, &what, &query)).await
        }
        ["metrics"] => on_a_thread(move || Ok(text(figures::TYPE, figures::text(&desk).into_bytes()))).await,
        _ => Err(Refusal::not_found("there is nothing of that name")),
    };
    outcome.unwrap_or_else(|refusal| refused(&refusal))
}

/// Does what may wait for the disk or for a machine.
async fn on_a_thread(
    work: impl FnOnce() -> Result<Reply, Refusal> + Send + 'static,
) -> Result<Reply, Refusal> {
    task::spawn_blocking(work).await.unwrap_or_else(|_| {
        Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "it could not be done: the agent's log has more"))
    })
}

fn read(desk: &Desk, vmm: &str, what: &str, query: &str) -> Result<Reply, Refusal> {
    let unreadable = |error: io::Error| {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("it cannot be read: {error}"))
    };
    match what {
        "log" => {
            let log = kept::serial_tail(desk.directory(), vmm, TAIL).map_err(unreadable)?;
            let log = log.ok_or_else(|| Refusal::not_found("its VMM has gone, and the log with it"))?;
            Ok(text("text/plain; charset=utf-8", log))
        }
        "report" => {
            let session = parameter(query, "session").unwrap_or_default();
            let report = kept::report(desk.directory(), vmm, session).map_err(unreadable)?;
            let report = report.ok_or_else(|| Refusal::not_found("there is no report of it"))?;
            Ok(text("application/json", report))
        }
        "metrics" => Ok(text("application/json", metrics(desk, vmm, query)?)),
        _ => {
            let said = desk.foretold().get(vmm, query, || forecast::forecast(desk, vmm, query))?;
            Ok(text("application/json", said))
        }
    }
}

fn metrics(desk: &Desk, vmm: &str, query: &str) -> Result<Vec<u8>, Refusal> {
    let wants_dirty = parameter(query, "dirty") == Some("true");
    let usage = usage(desk.directory(), vmm, wants_dirty).map_err(|error| match error {
        UsageError::Gone(_) => Refusal::not_found(error.to_string()),
        UsageError::Silent(_) => Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    })?;
    serde_json::to_vec(&usage)
        .map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

/// The value of a parameter of a query. Those that agents take need no percent signs.
fn parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query
        .split('&')
        .find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name))
        .map(|(_, value)| value)
}

fn text(media_type: &'static str, bytes: Vec<u8>) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::from(bytes)));
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    reply
}

fn refused(refusal: &Refusal) -> Reply {
    let mut reply = text("text/plain; charset=utf-8", refusal.why.clone().into_bytes());
    *reply.status_mut() = refusal.code;
    reply
}

#[cfg(test)]
mod tests;
