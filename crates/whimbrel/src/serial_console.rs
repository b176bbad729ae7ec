//! `whimbrel console VM`: the serial port of a machine, at this terminal.

use std::{
    error::Error,
    io::{self, IsTerminal, Read, Write},
    process::ExitCode,
    thread,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::{SinkExt, StreamExt};
use http::{Request, StatusCode, header};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use kube::{Api, Client, client::Body};
use objects::VirtualMachineInstance;
use ring::rand::{SecureRandom, SystemRandom};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

use crate::reach::{PATIENCE, Reach, done};

/// Ctrl-], as telnet and virtctl have it.
const LEAVE: u8 = 0x1d;
/// How long a machine whose VMM has ended may take to be somewhere else.
const MOVE_SECONDS: u32 = 30;
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Keys that wait to be sent.
const KEYS: usize = 64;

type Console = WebSocketStream<TokioIo<Upgraded>>;

/// How a conversation came to its end.
enum End {
    /// Whoever types has left.
    Left,
    /// The VMM has ended, or the connection.
    Closed(String),
}

/// Talks until somebody leaves or the machine has ended. A machine that moves is followed.
pub(crate) async fn run(machine: &str, reach: &Reach, client: &Client) -> Result<ExitCode, Box<dyn Error>> {
    let mut console = connect(machine, reach, client).await?;
    let mut vmm = vmm_of(machine, reach, client).await?;
    say(&format!("This is the serial console of {machine}; Ctrl-] leaves it."));
    let mut keys = keys();
    let _raw = Raw::make()?;
    loop {
        let why = match talk(&mut console, &mut keys).await? {
            End::Left => {
                // Whoever leaves does not wait.
                let _ = timeout(LOOK_AGAIN, console.close(None)).await;
                return Ok(ExitCode::SUCCESS);
            }
            End::Closed(why) => why,
        };
        let Some(next) = moved(machine, reach, client, vmm.as_deref()).await? else {
            say(&format!("The console of {machine} is closed: {why}"));
            return Ok(ExitCode::SUCCESS);
        };
        console = connect(machine, reach, client).await?;
        vmm = Some(next);
        say(&format!("{machine} has moved; this is its console there."));
    }
}

async fn connect(machine: &str, reach: &Reach, client: &Client) -> Result<Console, Box<dyn Error>> {
    let mut key = [0; 16];
    SystemRandom::new().fill(&mut key).map_err(|_| "The system has no random numbers")?;
    let base = format!("/apis/{}/{}/namespaces/{}", objects::GROUP, objects::VERSION, reach.namespace);
    let request = Request::get(format!("{base}/virtualmachineinstances/{machine}/console"))
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, STANDARD.encode(key))
        .header(header::SEC_WEBSOCKET_PROTOCOL, "plain.kubevirt.io")
        .body(Body::empty())?;
    let response = done(client.send(request)).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let code = response.status();
        let body = timeout(PATIENCE, response.into_body().collect_bytes()).await.ok().and_then(Result::ok);
        let status: serde_json::Value =
            body.and_then(|body| serde_json::from_slice(&body).ok()).unwrap_or_default();
        return Err(match status["message"].as_str() {
            Some(message) => message.to_owned(),
            None => format!("The server has no console of {machine}: it says {code}"),
        }
        .into());
    }
    let upgraded = timeout(PATIENCE, hyper::upgrade::on(response)).await??;
    Ok(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await)
}

async fn talk(console: &mut Console, keys: &mut mpsc::Receiver<Vec<u8>>) -> Result<End, Box<dyn Error>> {
    let mut out = io::stdout();
    loop {
        tokio::select! {
            said = console.next() => match said {
                Some(Ok(Message::Binary(bytes))) => {
                    out.write_all(&bytes)?;
                    out.flush()?;
                }
                Some(Ok(Message::Close(frame))) => {
                    let why = frame.map(|frame| frame.reason.to_string()).filter(|why| !why.is_empty());
                    return Ok(End::Closed(why.unwrap_or_else(|| "the server has closed it".to_owned())));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Ok(End::Closed(error.to_string())),
                None => return Ok(End::Closed("the connection has ended".to_owned())),
            },
            typed = keys.recv() => {
                let Some(mut typed) = typed else { return Ok(End::Left) };
                let is_left = typed.iter().position(|key| *key == LEAVE).map(|at| typed.truncate(at)).is_some();
                if !typed.is_empty() && timeout(PATIENCE, console.send(Message::binary(typed))).await.is_err() {
                    return Ok(End::Closed(format!("nothing was taken for {} s", PATIENCE.as_secs())));
                }
                if is_left {
                    return Ok(End::Left);
                }
            }
        }
    }
}

/// The VMM that a machine has come to from another; `None` if it has ended, or is nowhere else in time.
async fn moved(
    machine: &str,
    reach: &Reach,
    client: &Client,
    before: Option<&str>,
) -> Result<Option<String>, Box<dyn Error>> {
    for _ in 0..MOVE_SECONDS * 1000 / LOOK_AGAIN.as_millis() as u32 {
        let api: Api<VirtualMachineInstance> = reach.api(client);
        let Some(instance) = done(api.get_opt(machine)).await? else { return Ok(None) };
        let status = instance.status.unwrap_or_default();
        if status.phase().is_final() {
            return Ok(None);
        }
        if status.vmm.as_deref() != before && status.phase() == objects::InstancePhase::Running {
            return Ok(status.vmm);
        }
        sleep(LOOK_AGAIN).await;
    }
    Ok(None)
}

async fn vmm_of(machine: &str, reach: &Reach, client: &Client) -> Result<Option<String>, Box<dyn Error>> {
    let api: Api<VirtualMachineInstance> = reach.api(client);
    Ok(done(api.get_opt(machine)).await?.and_then(|instance| instance.status?.vmm))
}

/// What is typed, as it comes. The thread ends with the process.
fn keys() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(KEYS);
    thread::spawn(move || {
        let mut bytes = [0; 1024];
        while let Ok(count @ 1..) = io::stdin().read(&mut bytes) {
            if sender.blocking_send(bytes[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}

/// On a line of its own, also where the terminal is raw.
fn say(line: &str) {
    // A terminal that is gone has nobody to tell.
    let _ = write!(io::stderr(), "\r\n{line}\r\n");
}

/// The terminal passes every key on, and is put back when this is dropped.
struct Raw(Option<Termios>);

impl Raw {
    fn make() -> Result<Self, Box<dyn Error>> {
        if !io::stdin().is_terminal() {
            return Ok(Self(None));
        }
        let found = tcgetattr(io::stdin())?;
        let mut raw = found.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(Some(found)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(found) = &self.0 {
            // It fails when the terminal is gone, and then nobody minds.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, found);
        }
    }
}
