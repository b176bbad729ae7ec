//! WebSockets between clients and agents: the server lets them come to terms, and then carries bytes.

use std::{io, sync::Arc, time::Duration};

use hyper::{Response, StatusCode, header, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    sync::Semaphore,
    time::{sleep, timeout},
};

use crate::{ApiError, Call, call::WEB_SOCKET_HEADERS};

/// WebSockets at a time.
const MAX_TUNNELS: usize = 256;
/// How long an agent may say nothing: it pings every 20 s.
const SILENCE: Duration = Duration::from_secs(90);
/// How long one end may take no bytes.
const STUCK: Duration = Duration::from_secs(60);
/// How long after its time an agent may take to say why it closes a console.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long the client may take to begin, once it was told that it may.
const BEGIN: Duration = Duration::from_secs(30);

/// Room for WebSockets.
#[derive(Clone, Debug)]
pub(crate) struct Tunnels(Arc<Semaphore>);

impl Default for Tunnels {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_TUNNELS)))
    }
}

impl Tunnels {
    /// Asks the agent, and if it agrees carries what both ends say from then on. What is returned is for the client.
    pub(crate) async fn open<B: Default>(
        &self,
        call: Call,
        client: OnUpgrade,
    ) -> Result<Response<B>, ApiError> {
        let place = self.0.clone().try_acquire_owned().map_err(|_| {
            ApiError::unavailable(format!("{MAX_TUNNELS} consoles are open, as many as there may be"))
        })?;
        let mut response = call.send().await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(call.refusal(response).await);
        }
        let agent = hyper::upgrade::on(&mut response);
        let lasts = call.lasts + FAREWELL;
        let mut reply = Response::new(B::default());
        *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        for name in WEB_SOCKET_HEADERS {
            if let Some(value) = response.headers().get(&name) {
                reply.headers_mut().insert(name, value.clone());
            }
        }
        reply.headers_mut().remove(header::SEC_WEBSOCKET_KEY);
        tokio::spawn(async move {
            let ends = timeout(BEGIN, async { tokio::try_join!(client, agent) }).await;
            if let Ok(Ok((client, agent))) = ends {
                carry(TokioIo::new(client), TokioIo::new(agent), lasts).await;
            }
            drop(place);
        });
        Ok(reply)
    }
}

/// Carries bytes until one end has ended, or says nothing that should, or the time is up.
async fn carry(client: impl AsyncRead + AsyncWrite, agent: impl AsyncRead + AsyncWrite, lasts: Duration) {
    let (from_client, to_client) = split(client);
    let (from_agent, to_agent) = split(agent);
    let outcome = tokio::select! {
        () = sleep(lasts) => Ok(()),
        outcome = pump(from_agent, to_client, Some(SILENCE)) => outcome,
        outcome = pump(from_client, to_agent, None) => outcome,
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "A console ended badly");
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    silence: Option<Duration>,
) -> io::Result<()> {
    let mut bytes = vec![0; 16 << 10];
    loop {
        let read = from.read(&mut bytes);
        let count = match silence {
            Some(silence) => timeout(silence, read).await??,
            None => read.await?,
        };
        if count == 0 {
            return Ok(());
        }
        timeout(STUCK, async {
            to.write_all(&bytes[..count]).await?;
            to.flush().await
        })
        .await??;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[tokio::test]
    async fn a_console_ends_with_its_login_though_both_ends_would_go_on() {
        let (mut client, client_end) = duplex(100);
        let (mut agent, agent_end) = duplex(100);
        let carried = tokio::spawn(carry(client_end, agent_end, Duration::from_millis(200)));
        agent.write_all(b"login: ").await.unwrap();
        let mut said = [0; 7];
        client.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"login: ");
        // Neither end closes, and both are closed.
        assert_eq!(client.read(&mut said).await.unwrap(), 0);
        assert_eq!(agent.read(&mut said).await.unwrap(), 0);
        carried.await.unwrap();
    }
}
