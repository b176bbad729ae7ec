//! What is known of an attempt: counted while it runs, and kept until the next one.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use transport::{Connection, Security};
use wire::{Digest, FrameKind, GREETING_BYTES, Hello, Message, PageCounts, SessionId};

use crate::page_counters::PageCounters;

/// An attempt, as far as it came.
#[derive(Clone, Debug)]
pub struct AttemptFigures {
    /// The session.
    pub session: SessionId,
    /// Release of the source.
    pub release: String,
    /// Where the source came from; `None` over a unix socket.
    pub address: Option<String>,
    /// How its control connection is encrypted, and who the source is; `None` where it is not.
    pub security: Option<Security>,
    /// When it came.
    pub began: SystemTime,
    /// How long it took, or takes so far.
    pub took: Duration,
    /// Page channels that the source wanted.
    pub channels_wanted: u16,
    /// Messages on the control connection, the first included.
    pub messages: u64,
    /// Name of the last of them.
    pub last_message: &'static str,
    /// Device states.
    pub device_states: u32,
    /// What ended the control connection, if it broke.
    pub control_error: Option<String>,
    /// Each page channel that was opened.
    pub channels: Vec<ChannelFigures>,
    /// What was to be compared.
    pub digest: Digest,
    /// Whether it was equal, or where it was not; `None` before.
    pub compared: Option<Result<(), String>>,
    /// How long checking memory, making the machine and taking its disks took.
    pub load: Option<Duration>,
}

/// What came over one page channel.
#[derive(Clone, Debug)]
pub struct ChannelFigures {
    /// Number, from 0.
    pub index: u16,
    /// Frames that came whole, the greeting included.
    pub frames: u64,
    /// Bytes of the stream up to the end of the last of them, page data included.
    pub bytes: u64,
    /// Pages.
    pub pages: PageCounts,
    /// Rounds that came to their end.
    pub rounds: u32,
    /// Kind of the last frame that came whole; `None` as long as there is only the greeting.
    pub last_frame: Option<FrameKind>,
    /// What was wrong with the stream.
    pub error: Option<String>,
}

/// Figures of an attempt that several threads count.
#[derive(Debug)]
pub(super) struct Counts {
    began: Instant,
    first: Mutex<AttemptFigures>,
    messages: AtomicU64,
    device_states: AtomicU32,
    channels: Mutex<Vec<Arc<ChannelCounts>>>,
}

/// Figures of a channel. Its thread counts, without a lock: it does so with every frame. Whoever asks reads.
#[derive(Debug)]
pub(super) struct ChannelCounts {
    index: u16,
    frames: AtomicU64,
    bytes: AtomicU64,
    pub(super) pages: PageCounters,
    pub(super) rounds: AtomicU32,
    /// Number of the kind of the last frame; 0 as long as there is only the greeting.
    last: AtomicU8,
    error: OnceLock<String>,
}

impl Counts {
    /// Of the attempt that `hello` began.
    pub(super) fn new(hello: &Hello, release: &str, connection: &Connection) -> Self {
        let address = connection.peer_address();
        let first = AttemptFigures {
            session: hello.session,
            release: release.into(),
            address: address.map(|address| address.to_string()),
            security: connection.security(),
            began: SystemTime::now(),
            took: Duration::ZERO,
            channels_wanted: hello.channels,
            messages: 0,
            last_message: "Hello",
            device_states: 0,
            control_error: None,
            channels: Vec::new(),
            digest: hello.digest,
            compared: None,
            load: None,
        };
        Self {
            began: Instant::now(),
            first: Mutex::new(first),
            messages: AtomicU64::new(1),
            device_states: AtomicU32::new(0),
            channels: Mutex::default(),
        }
    }

    pub(super) fn heard(&self, message: &Message) {
        self.messages.fetch_add(1, Ordering::Relaxed);
        if matches!(message, Message::Device(_)) {
            self.device_states.fetch_add(1, Ordering::Relaxed);
        }
        self.first.lock().last_message = message.name();
    }

    pub(super) fn broke(&self, reason: &str) {
        self.first.lock().control_error = Some(reason.into());
    }

    pub(super) fn loaded(&self, took: Duration) {
        self.first.lock().load = Some(took);
    }

    /// Memory was compared; a difference that was found stays one.
    pub(super) fn compared(&self, result: Result<(), String>) {
        let mut first = self.first.lock();
        if !matches!(first.compared, Some(Err(_))) {
            first.compared = Some(result);
        }
    }

    /// The attempt is over: its time stops.
    pub(super) fn end(&self) {
        self.first.lock().took = self.began.elapsed();
    }

    /// Figures for another channel.
    pub(super) fn channel(&self, index: u16) -> Arc<ChannelCounts> {
        let counts = Arc::new(ChannelCounts {
            index,
            frames: AtomicU64::new(1),
            bytes: AtomicU64::new(GREETING_BYTES as u64),
            pages: PageCounters::default(),
            rounds: AtomicU32::new(0),
            last: AtomicU8::new(0),
            error: OnceLock::new(),
        });
        self.channels.lock().push(counts.clone());
        counts
    }

    /// As they stand.
    pub(super) fn figures(&self) -> AttemptFigures {
        let mut figures = self.first.lock().clone();
        if figures.took.is_zero() {
            figures.took = self.began.elapsed();
        }
        figures.messages = self.messages.load(Ordering::Relaxed);
        figures.device_states = self.device_states.load(Ordering::Relaxed);
        figures.channels = self.channels.lock().iter().map(|counts| counts.figures()).collect();
        figures.channels.sort_by_key(|channel| channel.index);
        figures
    }
}

impl ChannelCounts {
    /// A frame came whole; the stream was understood up to `bytes`.
    pub(super) fn frame(&self, kind: FrameKind, bytes: u64) {
        self.frames.fetch_add(1, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
        self.last.store(kind as u8, Ordering::Relaxed);
    }

    pub(super) fn broke(&self, reason: &str) {
        // Nothing comes after the first.
        let _ = self.error.set(reason.into());
    }

    fn figures(&self) -> ChannelFigures {
        let last = self.last.load(Ordering::Relaxed);
        let kinds = [FrameKind::Pages, FrameKind::RoundEnd];
        ChannelFigures {
            index: self.index,
            frames: self.frames.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            pages: self.pages.get(),
            rounds: self.rounds.load(Ordering::Relaxed),
            last_frame: kinds.into_iter().find(|kind| *kind as u8 == last),
            error: self.error.get().cloned(),
        }
    }
}
