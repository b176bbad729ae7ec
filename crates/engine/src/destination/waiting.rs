use std::time::Duration;

use migration::Time;
use wire::{Greeted, Hello, Message, Refuse};

use crate::{Heard, link::Link};

/// How long a source may have to wait. The one before may be gone already, and the word of that on its way on another
/// connection: a migration that is cancelled and tried again at once must not be refused for that.
const PATIENCE: Duration = Duration::from_secs(1);

/// A source that came while the destination was busy with another.
pub(super) struct WaitingSource {
    pub(super) link: Link,
    pub(super) hello: Hello,
    pub(super) source: Greeted,
    pub(super) heard: Heard,
    until: Time,
}

impl WaitingSource {
    /// One that came now.
    pub(super) fn new(link: Link, hello: Hello, source: Greeted, heard: Heard, now: Time) -> Self {
        Self { link, hello, source, heard, until: now + PATIENCE }
    }

    /// When it is to be refused at the latest.
    pub(super) fn until(&self) -> Time {
        self.until
    }

    /// Whether it does not wait any more. What is left of an attempt that was cancelled may come to be heard after the next one.
    pub(super) fn is_gone(&self) -> bool {
        self.link.connection().is_hung_up()
    }

    /// Tells it to come later.
    pub(super) fn refuse(mut self) {
        let reasons = vec!["The destination is busy with another source: try again when that is over".into()];
        // A source that does not even hear the refusal learns it from the closed connection.
        let _ = self.link.send(&Message::Refuse(Refuse { reasons }));
    }
}
