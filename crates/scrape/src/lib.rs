//! A page of figures at `/metrics`, for Prometheus: over HTTP without encryption, to whoever comes. What is on it is not known here.
//!
//! Everything is bounded: how many are served at a time (others wait their turn), and how long each may take.

use std::{convert::Infallible, io, net, sync::Arc, time::Duration};

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
    net::TcpListener,
    sync::Semaphore,
    task,
    time::{sleep, timeout},
};

/// Scrapes at a time.
const MAX_SCRAPES: usize = 16;
/// How long one may take.
const SCRAPE: Duration = Duration::from_secs(30);
/// How long the head of a request may take.
const PATIENCE: Duration = Duration::from_secs(10);
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

type Reply = Response<Full<Bytes>>;

/// Serves, and returns only if the socket cannot be used, and why. `page` is the page in the format that a header `Accept` asks for, with its media type; it is called on a thread that may wait.
pub async fn serve<P>(listener: net::TcpListener, page: P) -> io::Error
where
    P: Fn(&str) -> (&'static str, String) + Send + Sync + 'static,
{
    let listener = match listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener)) {
        Ok(listener) => listener,
        Err(error) => return error,
    };
    let places = Arc::new(Semaphore::new(MAX_SCRAPES));
    let page = Arc::new(page);
    loop {
        let place = match places.clone().acquire_owned().await {
            Ok(place) => place,
            Err(error) => return io::Error::other(error),
        };
        let Ok((stream, _)) = listener.accept().await else {
            // No descriptors, for example: others may give some back.
            sleep(ACCEPT_AGAIN).await;
            continue;
        };
        let page = page.clone();
        task::spawn(async move {
            let service = service_fn(move |request| {
                let page = page.clone();
                async move { Ok::<_, Infallible>(respond(&request, page).await) }
            });
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(PATIENCE).keep_alive(false);
            let served = timeout(SCRAPE, builder.serve_connection(TokioIo::new(stream), service)).await;
            if let Ok(Err(error)) = served {
                tracing::debug!(%error, "A connection ended badly");
            }
            drop(place);
        });
    }
}

async fn respond<P>(request: &Request<Incoming>, page: Arc<P>) -> Reply
where
    P: Fn(&str) -> (&'static str, String) + Send + Sync + 'static,
{
    if request.uri().path() != "/metrics" {
        return text(StatusCode::NOT_FOUND, PLAIN, "there is /metrics here, and nothing else\n".to_owned());
    }
    let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let accept = accept.unwrap_or_default().to_owned();
    match task::spawn_blocking(move || page(&accept)).await {
        Ok((media_type, page)) => text(StatusCode::OK, media_type, page),
        Err(_) => {
            let why = "it could not be made: the log has more\n".to_owned();
            text(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, why)
        }
    }
}

const PLAIN: &str = "text/plain; charset=utf-8";

fn text(code: StatusCode, media_type: &'static str, text: String) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::from(text)));
    *reply.status_mut() = code;
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    reply
}
