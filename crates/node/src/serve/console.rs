//! A serial port for somebody who types: a WebSocket (RFC 6455) whose messages are the bytes, both ways.
//!
//! One at a time: who comes second is refused, since two who type into one guest make nonsense. Nobody who is gone keeps others out: who
//! does not answer a ping is dropped.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::{SinkExt, StreamExt};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderValue},
    upgrade::Upgraded,
};
use hyper_util::rt::TokioIo;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    task,
    time::{Interval, MissedTickBehavior, interval, sleep_until, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

use super::{Desk, Refusal, Reply, desk::Seat, parameter, text};

/// What RFC 6455 has a server add to a client's key.
const MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// How often a client is pinged.
const PING: Duration = Duration::from_secs(20);
/// How long a client may say nothing, not even a pong.
const SILENCE: Duration = Duration::from_secs(70);
/// How long a client may take no bytes, and one that was let in may take to begin.
const STUCK: Duration = Duration::from_secs(30);
/// Bytes that wait for a guest that does not read. Beyond, nothing more is taken from the client.
const BACKLOG: usize = 64 << 10;
/// How long a console lasts at most.
const LONGEST: Duration = Duration::from_secs(3600);
/// The longest message of a client, in bytes.
const MAX_MESSAGE: usize = 64 << 10;

/// Agrees to a WebSocket, and carries bytes from then on.
pub(super) async fn open(
    request: &mut Request<Incoming>,
    desk: &Arc<Desk>,
    vmm: &str,
    query: &str,
) -> Result<Reply, Refusal> {
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY).cloned();
    let key = key.ok_or_else(|| Refusal::new(StatusCode::BAD_REQUEST, "a console is a WebSocket"))?;
    let protocol = request.headers().get(header::SEC_WEBSOCKET_PROTOCOL).cloned();
    let folder = desk.folder(vmm).filter(|folder| folder.path().is_dir());
    let folder = folder.ok_or_else(|| Refusal::not_found("its VMM has gone"))?;
    let seat = desk.sit(vmm).ok_or_else(|| {
        Refusal::new(StatusCode::CONFLICT, "somebody is at this console already: one at a time")
    })?;
    let serial = timeout(STUCK, UnixStream::connect(folder.console())).await;
    let serial = serial.map_err(io::Error::from).flatten().map_err(|_| {
        Refusal::not_found("its VMM has no console: it was started by an older release, or is about to end")
    })?;
    let lasts = parameter(query, "seconds").and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
    let until = Instant::now() + lasts.unwrap_or(LONGEST).min(LONGEST);
    let upgrade = hyper::upgrade::on(request);
    task::spawn(async move {
        if let Ok(Ok(upgraded)) = timeout(STUCK, upgrade).await {
            Conversation::begin(upgraded, serial, seat, until).await.go_on().await;
        }
    });
    let mut reply: Reply = text("text/plain; charset=utf-8", Vec::new());
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    agree(&mut reply, key.as_bytes());
    if let Some(protocol) = protocol {
        reply.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    Ok(reply)
}

fn agree<B>(reply: &mut Response<B>, key: &[u8]) {
    let accept = STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, MAGIC.as_bytes()].concat()));
    let headers = reply.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&accept) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
}

/// Somebody and a guest.
struct Conversation {
    client: WebSocketStream<TokioIo<Upgraded>>,
    from_guest: OwnedReadHalf,
    to_guest: OwnedWriteHalf,
    /// What was typed and not read yet.
    typed: Vec<u8>,
    heard: Instant,
    ping: Interval,
    /// When its time is up: its client has to come again, and is asked again who it is.
    until: Instant,
    /// Given up at the end.
    _seat: Seat,
}

impl Conversation {
    async fn begin(upgraded: Upgraded, serial: UnixStream, seat: Seat, until: Instant) -> Self {
        let config =
            WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
        let client =
            WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
        let (from_guest, to_guest) = serial.into_split();
        let mut ping = interval(PING);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let heard = Instant::now();
        Self { client, from_guest, to_guest, typed: Vec::new(), heard, ping, until, _seat: seat }
    }

    /// Carries bytes until one of them has ended, and says so to the client.
    async fn go_on(mut self) {
        let mut bytes = vec![0; 16 << 10];
        let why = loop {
            let event = tokio::select! {
                said = self.from_guest.read(&mut bytes) => Event::Said(said.unwrap_or(0)),
                typed = self.client.next(), if self.typed.len() < BACKLOG => match typed {
                    Some(Ok(message)) => Event::Typed(message),
                    Some(Err(_)) | None => return,
                },
                taken = self.to_guest.write(&self.typed), if !self.typed.is_empty() => {
                    Event::Taken(taken.unwrap_or(0))
                }
                _ = self.ping.tick() => Event::Tick,
                () = sleep_until(self.until.into()) => break "its login has ended, or an hour is over: connect again",
            };
            let outcome = match event {
                Event::Said(0) | Event::Taken(0) => break "the VMM has ended: the machine has ended or moved",
                Event::Said(count) => self.send(Message::binary(bytes[..count].to_vec())).await,
                Event::Taken(count) => {
                    self.typed.drain(..count);
                    Some(())
                }
                Event::Typed(message) => {
                    self.heard = Instant::now();
                    match message {
                        Message::Binary(typed) => self.typed.extend_from_slice(&typed),
                        Message::Text(typed) => self.typed.extend_from_slice(typed.as_bytes()),
                        Message::Close(_) => return,
                        _ => {}
                    }
                    Some(())
                }
                // It is not listened to, and says nothing wrong, while the guest does not read.
                Event::Tick if self.typed.len() >= BACKLOG => {
                    self.heard = Instant::now();
                    self.send(Message::Ping(Vec::new().into())).await
                }
                Event::Tick if self.heard.elapsed() > SILENCE => {
                    break "nothing was heard of the client, not even a pong";
                }
                Event::Tick => self.send(Message::Ping(Vec::new().into())).await,
            };
            if outcome.is_none() {
                return;
            }
        };
        let close = CloseFrame { code: CloseCode::Normal, reason: why.into() };
        // It may be gone as well.
        let _ = timeout(STUCK, self.client.close(Some(close))).await;
    }

    /// `None` if the client is gone, or does not take it in time.
    async fn send(&mut self, message: Message) -> Option<()> {
        timeout(STUCK, self.client.send(message)).await.ok()?.ok()
    }
}

enum Event {
    /// The guest has said so many bytes; none: there is no VMM any more.
    Said(usize),
    Typed(Message),
    /// The guest has taken so many bytes.
    Taken(usize),
    Tick,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_accepted_as_in_rfc_6455() {
        let mut reply = Response::new(());
        agree(&mut reply, b"dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(reply.headers()[header::SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
