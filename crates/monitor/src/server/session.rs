use std::{
    io::{self, Read},
    os::unix::net::UnixStream,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::outbox::{Condition, Outbox};
use crate::{
    CommandError, Events, Handler,
    commands::{self, Context},
    events::Listener,
    protocol::{FrameError, Greeting, GreetingBody, Reply, Request, Splitter, parse_json},
};

/// How long a client that closed its side, or whose server ends, may take to read what waits for it.
const FAREWELL: Duration = Duration::from_secs(1);

/// One client, from greeting to end.
pub(super) struct Session {
    stream: UnixStream,
    outbox: Arc<Outbox>,
    handler: Arc<dyn Handler>,
    events: Events,
    splitter: Splitter,
    /// What was read and not looked at yet. Never more than one read.
    input: Vec<u8>,
    /// Bytes of it that were looked at.
    used: usize,
    /// The client has sent `qmp_capabilities`.
    negotiated: bool,
    /// The client sends nothing more.
    ended: bool,
}

/// Bytes of one read.
const READ_BYTES: usize = 16 << 10;

impl Session {
    pub(super) fn new(
        stream: UnixStream,
        outbox: Arc<Outbox>,
        handler: Arc<dyn Handler>,
        events: Events,
    ) -> Self {
        Self {
            stream,
            outbox,
            handler,
            events,
            splitter: Splitter::new(),
            input: Vec::new(),
            used: 0,
            negotiated: false,
            ended: false,
        }
    }

    /// Serves the client until it leaves, or the server ends. An error says why it was dropped.
    pub(super) fn run(mut self) -> io::Result<()> {
        self.outbox.reply(Greeting { qmp: GreetingBody::default() }.to_line());
        loop {
            self.outbox.wake().clear();
            self.answer();
            self.outbox.send(&self.stream)?;
            let condition = self.outbox.condition();
            if condition.overflowed {
                let desc = "it did not read, and more events were waiting for it than are kept";
                return Err(io::Error::other(desc));
            }
            if condition.ending {
                return self.farewell();
            }
            if self.used < self.input.len() && !condition.congested {
                continue;
            }
            if self.ended && self.used == self.input.len() {
                return self.farewell();
            }
            self.wait(condition)?;
        }
    }

    /// Does the commands that have arrived, as long as the client reads the replies.
    fn answer(&mut self) {
        while !self.outbox.condition().congested {
            let mut rest = &self.input[self.used..];
            let value = self.splitter.next(&mut rest);
            self.used = self.input.len() - rest.len();
            match value {
                Some(value) => self.answer_value(value),
                None if self.ended => match self.splitter.finish() {
                    Some(value) => self.answer_value(Ok(value)),
                    None => return,
                },
                None => return,
            }
        }
    }

    fn answer_value(&mut self, value: Result<Vec<u8>, FrameError>) {
        match value.map_err(|error| Reply::err(None, error.into())).and_then(|bytes| parse(&bytes)) {
            // Or STOP comes between what was read and its reply, and the client takes the reply for what is so after it.
            Ok(request) if commands::is_about_what_events_tell(&request) => {
                let (events, outbox) = (self.events.clone(), self.outbox.clone());
                events.between(|| self.reply_to(request.clone()), |reply| outbox.reply(reply));
            }
            Ok(request) => {
                let reply = self.reply_to(request);
                self.outbox.reply(reply);
            }
            Err(reply) => self.outbox.reply(reply.to_line()),
        }
    }

    fn reply_to(&mut self, request: Request) -> Vec<u8> {
        let id = request.id.clone();
        Reply::new(id, self.execute(request)).to_line()
    }

    fn execute(&mut self, request: Request) -> Result<serde_json::Value, CommandError> {
        if self.negotiated {
            return commands::dispatch(Context { handler: &*self.handler, events: &self.events }, request);
        }
        let outcome = commands::negotiate(request)?;
        self.negotiated = true;
        self.outbox.enable_events();
        let listener: Weak<Outbox> = Arc::downgrade(&self.outbox);
        self.events.listen(listener as Weak<dyn Listener>);
        Ok(outcome)
    }

    /// Waits until the client sends, or takes what waits for it, or an event comes; and reads.
    fn wait(&mut self, condition: Condition) -> io::Result<()> {
        let mut interest = PollFlags::empty();
        let reads = !self.ended && !condition.congested;
        interest.set(PollFlags::IN, reads);
        interest.set(PollFlags::OUT, condition.pending);
        let mut ready = [PollFd::new(&self.stream, interest), PollFd::new(self.outbox.wake(), PollFlags::IN)];
        match poll(&mut ready, None) {
            Err(rustix::io::Errno::INTR) => return Ok(()),
            outcome => outcome?,
        };
        let found = ready[0].revents();
        if reads && found.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            self.read()
        } else if found.intersects(PollFlags::HUP | PollFlags::ERR) {
            // He is gone altogether: nothing that waits can be sent. Without this, poll would return at once for ever.
            Err(io::ErrorKind::ConnectionReset.into())
        } else {
            Ok(())
        }
    }

    fn read(&mut self) -> io::Result<()> {
        self.input.resize(READ_BYTES, 0);
        self.used = 0;
        let outcome = self.stream.read(&mut self.input);
        self.input.truncate(*outcome.as_ref().unwrap_or(&0));
        match outcome {
            Ok(count) => self.ended = count == 0,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Sends what waits, and then no more.
    fn farewell(self) -> io::Result<()> {
        let deadline = Instant::now() + FAREWELL;
        while self.outbox.condition().pending {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(left.subsec_nanos().max(1)) };
            let mut ready = [PollFd::new(&self.stream, PollFlags::OUT)];
            match poll(&mut ready, Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            self.outbox.send(&self.stream)?;
        }
        Ok(())
    }
}

/// JSON first, then the shape of a request.
fn parse(bytes: &[u8]) -> Result<Request, Reply> {
    let value = parse_json(bytes)
        .map_err(|error| Reply::err(None, CommandError::generic(format!("JSON parse error, {error}"))))?;
    Request::parse(value)
}
